"""The table of metrics: what each is, where it comes from, what it needs, and the function that measures it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastunlearn.audit.metrics import measures as by
from fastunlearn.audit.metrics import membership as mia
from fastunlearn.audit.metrics import memorisation as memory
from fastunlearn.audit.metrics.measured import Measurement

__all__ = ["HIGHER", "LOWER", "METRICS", "NEEDS", "REFERENCE", "Metric"]

HIGHER, LOWER, REFERENCE = "higher", "lower", "as the retrained model"
#: What a metric may need beside the model and its forget set: how to tell, and what to say where it is missing.
NEEDS: dict[str, tuple[Callable[[Measurement], bool], str]] = {
    "reference": (lambda m: m.reference is not None, "a retrained model (reference=)"),
    "held_out": (lambda m: "held_out" in m.model.sets, "records that no model has seen (sets['held_out'])"),
    "variants": (lambda m: bool(m.model.variants.get("forget")), "wrong answers to forgotten records (variants=)"),
    "kept variants": (lambda m: bool(m.model.variants.get("retain")), "wrong answers to kept records (variants=)"),
    "canaries": (lambda m: bool(m.model.canaries), "canaries (canaries=)"),
    "calibration": (lambda m: m.calibration is not None, "a model to compare losses with (calibration= or reference=)"),
    "seeds": (lambda m: min(len(m.models), len(m.references)) > 1,
              "two models of each kind at least (siblings= and references=)"),
}  # fmt: skip


@dataclass(frozen=True)
class Metric:
    """``measure(measurement)`` gives by place (a set's name, or two joined by "|") ``value``, ``low`` and ``high``.

    ``definition``: one formula or sentence. ``range``: least and greatest value, with the unit. ``better``: what is
    better on kept data, or wherever there is no other; on forgotten data the retrained model's value is the aim of
    all. ``needs``: keys of NEEDS. ``source``: where the definition comes from.
    """

    name: str
    definition: str
    range: str
    better: str
    needs: tuple[str, ...]
    source: str
    measure: Callable[[Measurement], dict[str, dict]]


_AUC = "0 to 1; 0.5 tells nothing"
_MIA = ("held_out",)
_ALL = (
    Metric("probability", "P(answer | prompt)^(1/tokens), mean over records", "0 to 1", HIGHER, (),
           "TOFU, arXiv 2401.06121, section 2.2",
           by.mean(lambda model, name: memory.probability(model.statistics(name)))),
    Metric("exact_memorisation", "share of a record's target tokens put first given the true ones before, mean",
           "0 to 1", HIGHER, (), "Tirumala et al. 2022, arXiv 2205.10770",
           by.mean(lambda model, name: memory.exact_memorisation(model.statistics(name)))),
    Metric("extraction_strength", "1 - (fewest answer tokens to give until greedy decoding writes the rest) / tokens, "
           "mean", "0 to 1", HIGHER, (), "Carlini et al. 2021, arXiv 2012.07805; formula: arXiv 2406.09179",
           by.mean(lambda model, name: memory.extraction_strength(model.statistics(name)))),
    Metric("rouge_l_recall", "longest common subsequence of greedy answer and truth, in words, over the truth's words, "
           "mean", "0 to 1", HIGHER, (), "Lin 2004; TOFU, arXiv 2401.06121, section 2.2", by.mean(by.rouge(0))),
    Metric("rouge_l_f", "2 r p / (r + p) of that recall and the precision, mean", "0 to 1", HIGHER, (), "Lin 2004",
           by.mean(by.rouge(2))),
    Metric("perplexity", "exp of the mean negative log-likelihood of all target tokens", "1 to infinity", LOWER, (),
           "Jelinek et al. 1977", by.perplexity_of),
    Metric("calibration", "sum over 15 bins of (tokens in bin / all) |accuracy - mean confidence|", "0 to 1", LOWER, (),
           "Guo et al. 2017, arXiv 1706.04599, equation 3", by.calibration_of),
    Metric("exposure", "log2(candidates) - log2(rank of the secret), mean over canaries", "0 to log2(candidates), bits",
           REFERENCE, ("canaries",), "Carlini et al. 2019, arXiv 1802.08232", by.canary_bits),
    Metric("truth_ratio", "R = mean P(wrong)^(1/tokens) / P(right)^(1/tokens); mean of min(R, 1/R) on forgotten, of "
           "max(0, 1 - R) on other data", "0 to 1", HIGHER, ("variants",),
           "TOFU, arXiv 2401.06121, equation 1", by.truth_ratio_of),
    Metric("forget_quality", "p-value of the KS test between the truth ratios R of the model and of the retrained one; "
           "with D, its critical value and an upper bound for the true D", "0 to 1", HIGHER, ("variants", "reference"),
           "TOFU, arXiv 2401.06121, section 2.2", by.forget_quality_of),
    Metric("model_utility", "harmonic mean of probability, ROUGE-L recall and max(0, 1 - R) on retain, real_authors "
           "and world_facts (of those given)", "0 to 1", HIGHER, ("kept variants",),
           "TOFU, arXiv 2401.06121, section 2.2", by.model_utility_of),
    Metric("mia_loss", "AUC, forgotten against held-out, of the mean loss", _AUC, REFERENCE, _MIA,
           "Yeom et al. 2018, arXiv 1709.01604",
           by.attack(lambda m, model, name: mia.loss_scores(model.statistics(name)))),
    Metric("mia_zlib", "AUC of the mean loss over the scored text's bytes after zlib", _AUC, REFERENCE, _MIA,
           "Carlini et al. 2021, arXiv 2012.07805", by.attack(by.zlib_of)),
    Metric("mia_reference", "AUC of the mean loss minus that of a model that never saw the records", _AUC, REFERENCE,
           (*_MIA, "calibration"), "Watson et al. 2022, arXiv 2111.08440", by.attack(by.calibrated)),
    Metric("mia_gradient_norm", "AUC of the Euclidean norm of the mean loss's gradient", _AUC, REFERENCE, _MIA,
           "Wang et al. 2024, arXiv 2402.17012", by.attack(lambda m, model, name: model.gradient_norms(name))),
    Metric("mia_min_k", "AUC of minus the mean log-probability of the 20 % least likely tokens", _AUC, REFERENCE, _MIA,
           "Shi et al. 2024, arXiv 2310.16789",
           by.attack(lambda m, model, name: mia.min_k_scores(model.statistics(name)))),
    Metric("mia_min_k_plus_plus", "the same of (log p - mu) / sigma over the predicted distribution", _AUC, REFERENCE,
           _MIA, "Zhang et al. 2025, arXiv 2404.02936",
           by.attack(lambda m, model, name: mia.min_k_plus_plus_scores(model.statistics(name)))),
    Metric("privleak", "100 (A - A_retrained) / A_retrained, A = 1 - AUC of Min-K% with 40 %",
           "-100 (records look trained on) up; 0 is ideal; per cent", REFERENCE, (*_MIA, "reference"),
           "MUSE: Shi et al. 2025, arXiv 2407.06460", by.privleak_of),
    Metric("kl", "KL(retrained || model), mean over target tokens", "0 to infinity, nats", LOWER, ("reference",),
           "Kullback & Leibler 1951", by.divergence("kl")),
    Metric("js", "Jensen-Shannon divergence of retrained and model, mean over target tokens", "0 to log 2, nats", LOWER,
           ("reference",), "Lin 1991", by.divergence("js")),
    Metric("klom", "KL of the margins log p - log(1 - p) of several retrained models from those of several unlearned "
           "ones, mean over records", "0 to infinity, nats", LOWER, ("seeds",),
           "Georgiev et al. 2024, arXiv 2410.23232, E.1", by.klom_of),
    Metric("equivalence_margin", "the smallest margin within which two one-sided t tests (5 %) show that the mean "
           "probability is that of the retrained model, records paired", "0 to 1", LOWER, ("reference",),
           "Schuirmann 1987", by.equivalence_of),
)  # fmt: skip

#: Every metric by name.
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
