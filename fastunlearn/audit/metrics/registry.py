"""The table of metrics: what each is, where it comes from, what it needs, and the function that measures it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fastunlearn.audit.membership import auc
from fastunlearn.audit.metrics import calibration as _calibration
from fastunlearn.audit.metrics import klom as _klom
from fastunlearn.audit.metrics import membership as mia
from fastunlearn.audit.metrics import memorisation as memory
from fastunlearn.audit.metrics import truth
from fastunlearn.audit.metrics.equivalence import equivalence_margin, tost
from fastunlearn.audit.metrics.measured import MeasuredModel, Measurement
from fastunlearn.audit.metrics.rouge import rouge_l

__all__ = ["HIGHER", "LOWER", "METRICS", "NEEDS", "REFERENCE", "Metric"]

HIGHER, LOWER, REFERENCE = "higher", "lower", "as the retrained model"
#: Sets whose numbers make the model utility; on the last two the probability is normalised by the wrong answers.
UTILITY_SETS = ("retain", "real_authors", "world_facts")

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


def _mean(of: Callable[[MeasuredModel, str], np.ndarray]) -> Callable[[Measurement], dict]:
    """On every set: the mean over its records of what ``of`` gives for each."""
    return lambda m: {name: m.estimate(np.mean, of(m.model, name)) for name in m.model.sets}


def _token_mean(sums: np.ndarray) -> float:
    return sums[:, 0].sum() / sums[:, 1].sum()


def _rouge(part: int):
    def of(model: MeasuredModel, name: str) -> np.ndarray:
        pairs = zip(model.written(name), model.texts(name), strict=True)
        return np.array([rouge_l(written, true)[part] for written, true in pairs])

    return of


def _divergence(which: str):
    def sums(m: Measurement, name: str) -> np.ndarray:
        found = m.model.divergences(m.reference, name)
        out = np.zeros((found.samples, 2))
        np.add.at(out, found.sample.numpy(), np.stack([getattr(found, which).numpy(), np.ones(len(found.sample))], 1))
        return out

    return lambda m: {name: m.estimate(_token_mean, sums(m, name)) for name in m.model.sets}


def _attack(scores: Callable[[Measurement, MeasuredModel, str], np.ndarray]):
    def measure(m: Measurement) -> dict:
        pair = [scores(m, m.model, name) for name in ("forget", "held_out")]
        return {"forget|held_out": m.estimate(auc, *pair)}

    return measure


def _zlib(m: Measurement, model: MeasuredModel, name: str) -> np.ndarray:
    return mia.zlib_scores(model.statistics(name), model.texts(name))


def _calibrated(m: Measurement, model: MeasuredModel, name: str) -> np.ndarray:
    return mia.difficulty_scores(model.statistics(name), m.calibration.statistics(name))


def _privleak(m: Measurement) -> dict:
    def scores(name: str) -> np.ndarray:
        both = (m.model.statistics(name), m.reference.statistics(name))
        return np.stack([mia.min_k_scores(one, share=mia.PRIVLEAK_SHARE) for one in both], 1)

    def statistic(forget: np.ndarray, held_out: np.ndarray) -> float:
        return mia.privleak(*(auc(forget[:, i], held_out[:, i]) for i in range(2)))

    return {"forget|held_out": m.estimate(statistic, scores("forget"), scores("held_out"))}


def _ratios(model: MeasuredModel, name: str) -> np.ndarray:
    found = model.answers(name)
    return truth.truth_ratio(found.right, found.wrong)


def _truth_ratio(m: Measurement) -> dict:
    """As TOFU aggregates: near 1 is the aim on forgotten data, near 0 (1 - R high) on the others."""
    return {
        name: m.estimate(np.mean, (truth.nearness if name == "forget" else truth.truthfulness)(_ratios(m.model, name)))
        for name, found in m.model.variants.items()
        if found
    }


def _forget_quality(m: Measurement) -> dict:
    pairs = np.stack([_ratios(m.model, "forget"), _ratios(m.reference, "forget")], 1)
    found = m.estimate(lambda rows: truth.forget_quality(rows[:, 0], rows[:, 1])["value"], pairs)
    return {"forget": found | truth.forget_quality(pairs[:, 0], pairs[:, 1])}


def _model_utility(m: Measurement) -> dict:
    arrays = []
    for name in UTILITY_SETS:
        if not m.model.variants.get(name):
            continue
        found = m.model.answers(name)
        arrays += [truth.truthfulness(truth.truth_ratio(found.right, found.wrong)), _rouge(0)(m.model, name)]
        if name == "retain":
            arrays.append(memory.probability(m.model.statistics(name)))
        else:
            arrays.append(truth.normalised_probability(np.exp(-found.own), [np.exp(-one) for one in found.wrong]))
    return {"all": m.estimate(lambda *parts: truth.harmonic_mean([part.mean() for part in parts]), *arrays)}


def _klom_of(m: Measurement) -> dict:
    def margins(models: list[MeasuredModel], name: str) -> np.ndarray:
        return np.stack([_klom.sample_margins(one.statistics(name)) for one in models])

    return {
        name: m.estimate(np.mean, _klom.klom(margins(m.references, name), margins(m.models, name)))
        for name in m.model.sets
    }


def _calibration_of(m: Measurement) -> dict:
    def sums(name: str) -> np.ndarray:
        found = m.model.statistics(name)
        return _calibration.bin_sums(
            found.confidence.numpy(), found.correct.numpy(), found.sample.numpy(), found.samples
        )

    return {name: m.estimate(_calibration.calibration_error, sums(name)) for name in m.model.sets}


def _equivalence(m: Measurement) -> dict:
    result = {}
    for name, samples in m.model.sets.items():
        if len(samples) < 2:
            continue
        pair = np.stack([memory.probability(one.statistics(name)) for one in (m.model, m.reference)], 1)
        found = m.estimate(lambda rows: equivalence_margin(rows[:, 0], rows[:, 1]), pair)
        result[name] = found | {"difference": tost(pair[:, 0], pair[:, 1], 1.0).difference}
    return result


def _canary_bits(m: Measurement) -> dict:
    return {name: m.estimate(np.mean, bits) for name, bits in m.model.exposures.items()}


def _perplexity(m: Measurement) -> dict:
    return {
        name: m.estimate(memory.perplexity_of_sums, memory.nll_sums(m.model.statistics(name))) for name in m.model.sets
    }


_AUC = "0 to 1; 0.5 tells nothing"
_MIA = ("held_out",)
_ALL = (
    Metric("probability", "P(answer | prompt)^(1/tokens), mean over records", "0 to 1", HIGHER, (),
           "TOFU, arXiv 2401.06121, section 2.2",
           _mean(lambda model, name: memory.probability(model.statistics(name)))),
    Metric("exact_memorisation", "share of a record's target tokens put first given the true ones before, mean",
           "0 to 1", HIGHER, (), "Tirumala et al. 2022, arXiv 2205.10770",
           _mean(lambda model, name: memory.exact_memorisation(model.statistics(name)))),
    Metric("extraction_strength", "1 - (fewest answer tokens to give until greedy decoding writes the rest) / tokens, "
           "mean", "0 to 1", HIGHER, (), "Carlini et al. 2021, arXiv 2012.07805; formula: arXiv 2406.09179",
           _mean(lambda model, name: memory.extraction_strength(model.statistics(name)))),
    Metric("rouge_l_recall", "longest common subsequence of greedy answer and truth, in words, over the truth's words, "
           "mean", "0 to 1", HIGHER, (), "Lin 2004; TOFU, arXiv 2401.06121, section 2.2", _mean(_rouge(0))),
    Metric("rouge_l_f", "2 r p / (r + p) of that recall and the precision, mean", "0 to 1", HIGHER, (), "Lin 2004",
           _mean(_rouge(2))),
    Metric("perplexity", "exp of the mean negative log-likelihood of all target tokens", "1 to infinity", LOWER, (),
           "Jelinek et al. 1977", _perplexity),
    Metric("calibration", "sum over 15 bins of (tokens in bin / all) |accuracy - mean confidence|", "0 to 1", LOWER, (),
           "Guo et al. 2017, arXiv 1706.04599, equation 3", _calibration_of),
    Metric("exposure", "log2(candidates) - log2(rank of the secret), mean over canaries", "0 to log2(candidates), bits",
           REFERENCE, ("canaries",), "Carlini et al. 2019, arXiv 1802.08232", _canary_bits),
    Metric("truth_ratio", "R = mean P(wrong)^(1/tokens) / P(right)^(1/tokens); mean of min(R, 1/R) on forgotten, of "
           "max(0, 1 - R) on other data", "0 to 1", HIGHER, ("variants",),
           "TOFU, arXiv 2401.06121, equation 1", _truth_ratio),
    Metric("forget_quality", "p-value of the KS test between the truth ratios R of the model and of the retrained one; "
           "with D, its critical value and an upper bound for the true D", "0 to 1", HIGHER, ("variants", "reference"),
           "TOFU, arXiv 2401.06121, section 2.2", _forget_quality),
    Metric("model_utility", "harmonic mean of probability, ROUGE-L recall and max(0, 1 - R) on retain, real_authors "
           "and world_facts (of those given)", "0 to 1", HIGHER, ("kept variants",),
           "TOFU, arXiv 2401.06121, section 2.2", _model_utility),
    Metric("mia_loss", "AUC, forgotten against held-out, of the mean loss", _AUC, REFERENCE, _MIA,
           "Yeom et al. 2018, arXiv 1709.01604",
           _attack(lambda m, model, name: mia.loss_scores(model.statistics(name)))),
    Metric("mia_zlib", "AUC of the mean loss over the text's bytes after zlib", _AUC, REFERENCE, _MIA,
           "Carlini et al. 2021, arXiv 2012.07805", _attack(_zlib)),
    Metric("mia_reference", "AUC of the mean loss minus that of a model that never saw the records", _AUC, REFERENCE,
           (*_MIA, "calibration"), "Watson et al. 2022, arXiv 2111.08440", _attack(_calibrated)),
    Metric("mia_gradient_norm", "AUC of the Euclidean norm of the mean loss's gradient", _AUC, REFERENCE, _MIA,
           "Wang et al. 2024, arXiv 2402.17012", _attack(lambda m, model, name: model.gradient_norms(name))),
    Metric("mia_min_k", "AUC of minus the mean log-probability of the 20 % least likely tokens", _AUC, REFERENCE, _MIA,
           "Shi et al. 2024, arXiv 2310.16789",
           _attack(lambda m, model, name: mia.min_k_scores(model.statistics(name)))),
    Metric("mia_min_k_plus_plus", "the same of (log p - mu) / sigma over the predicted distribution", _AUC, REFERENCE,
           _MIA, "Zhang et al. 2025, arXiv 2404.02936",
           _attack(lambda m, model, name: mia.min_k_plus_plus_scores(model.statistics(name)))),
    Metric("privleak", "100 (A - A_retrained) / A_retrained, A = 1 - AUC of Min-K% with 40 %",
           "-100 (records look trained on) up; 0 is ideal; per cent", REFERENCE, (*_MIA, "reference"),
           "MUSE: Shi et al. 2025, arXiv 2407.06460", _privleak),
    Metric("kl", "KL(retrained || model), mean over target tokens", "0 to infinity, nats", LOWER, ("reference",),
           "Kullback & Leibler 1951", _divergence("kl")),
    Metric("js", "Jensen-Shannon divergence of retrained and model, mean over target tokens", "0 to log 2, nats", LOWER,
           ("reference",), "Lin 1991", _divergence("js")),
    Metric("klom", "KL of the margins log p - log(1 - p) of several retrained models from those of several unlearned "
           "ones, mean over records", "0 to infinity, nats", LOWER, ("seeds",),
           "Georgiev et al. 2024, arXiv 2410.23232, E.1", _klom_of),
    Metric("equivalence_margin", "the smallest margin within which two one-sided t tests (5 %) show that the mean "
           "probability is that of the retrained model, records paired", "0 to 1", LOWER, ("reference",),
           "Schuirmann 1987", _equivalence),
)  # fmt: skip

#: Every metric by name.
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
