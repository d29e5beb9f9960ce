"""How each metric of the table is measured: from the passes of a Measurement to values by place, with intervals."""

from __future__ import annotations

import warnings
from collections.abc import Callable

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
from fastunlearn.errors import InvalidInputError

__all__ = [
    "attack", "calibrated", "calibration_of", "canary_bits", "divergence", "equivalence_of", "forget_quality_of",
    "klom_of", "mean", "model_utility_of", "perplexity_of", "privleak_of", "rouge", "truth_ratio_of", "zlib_of",
]  # fmt: skip

#: Sets whose numbers make the model utility; on the last two the probability is normalised by the wrong answers.
UTILITY_SETS = ("retain", "real_authors", "world_facts")


def mean(of: Callable[[MeasuredModel, str], np.ndarray]) -> Callable[[Measurement], dict]:
    """On every set: the mean over its records of what ``of`` gives for each."""
    return lambda m: {name: m.estimate(np.mean, of(m.model, name)) for name in m.model.sets}


def _token_mean(sums: np.ndarray) -> float:
    return sums[:, 0].sum() / sums[:, 1].sum()


def rouge(part: int):
    def of(model: MeasuredModel, name: str) -> np.ndarray:
        pairs = zip(model.written(name), model.texts(name), strict=True)
        return np.array([rouge_l(written, true)[part] for written, true in pairs])

    return of


def divergence(which: str):
    def sums(m: Measurement, name: str) -> np.ndarray:
        found = m.model.divergences(m.reference, name)
        out = np.zeros((found.samples, 2))
        np.add.at(out, found.sample.numpy(), np.stack([getattr(found, which).numpy(), np.ones(len(found.sample))], 1))
        return out

    return lambda m: {name: m.estimate(_token_mean, sums(m, name)) for name in m.model.sets}


def attack(scores: Callable[[Measurement, MeasuredModel, str], np.ndarray]):
    def measure(m: Measurement) -> dict:
        pair = [scores(m, m.model, name) for name in ("forget", "held_out")]
        return {"forget|held_out": m.estimate(auc, *pair)}

    return measure


def zlib_of(m: Measurement, model: MeasuredModel, name: str) -> np.ndarray:
    return mia.zlib_scores(model.statistics(name), model.scored_texts(name))


def calibrated(m: Measurement, model: MeasuredModel, name: str) -> np.ndarray:
    return mia.difficulty_scores(model.statistics(name), m.calibration.statistics(name))


def privleak_of(m: Measurement) -> dict:
    def scores(name: str) -> np.ndarray:
        both = (m.model.statistics(name), m.reference.statistics(name))
        return np.stack([mia.min_k_scores(one, share=mia.PRIVLEAK_SHARE) for one in both], 1)

    def statistic(forget: np.ndarray, held_out: np.ndarray) -> float:
        return mia.privleak(*(auc(forget[:, i], held_out[:, i]) for i in range(2)))

    return {"forget|held_out": m.estimate(statistic, scores("forget"), scores("held_out"))}


def _ratios(model: MeasuredModel, name: str) -> np.ndarray:
    found = model.answers(name)
    return truth.truth_ratio(found.right, found.wrong)


def truth_ratio_of(m: Measurement) -> dict:
    """As TOFU aggregates: near 1 is the aim on forgotten data, near 0 (1 - R high) on the others."""
    return {
        name: m.estimate(np.mean, (truth.nearness if name == "forget" else truth.truthfulness)(_ratios(m.model, name)))
        for name, found in m.model.variants.items()
        if found
    }


def forget_quality_of(m: Measurement) -> dict:
    if m.reference.variants.get("forget") != m.model.variants["forget"]:
        raise InvalidInputError("reference: was measured with other variants of forget; give it the same ones")
    pairs = np.stack([_ratios(m.model, "forget"), _ratios(m.reference, "forget")], 1)
    own = truth.forget_quality(pairs[:, 0], pairs[:, 1])
    with warnings.catch_warnings():  # SciPy says so where ties make it take the asymptotic p-value: once is enough
        warnings.simplefilter("ignore", RuntimeWarning)
        found = m.estimate(lambda rows: truth.forget_quality(rows[:, 0], rows[:, 1])["value"], pairs)
    return {"forget": found | own}


def _side_by_side(columns: list[np.ndarray]) -> list[np.ndarray]:
    """Columns of as many rows in one array (n, k), since they are of the same records."""
    sizes = dict.fromkeys(len(one) for one in columns)
    return [np.stack([one for one in columns if len(one) == size], 1) for size in sizes]


def model_utility_of(m: Measurement) -> dict:
    arrays = []
    for name in UTILITY_SETS:
        if not m.model.variants.get(name):
            continue
        found = m.model.answers(name)
        columns = [truth.truthfulness(truth.truth_ratio(found.right, found.wrong)), rouge(0)(m.model, name)]
        if name == "retain":
            columns.append(memory.probability(m.model.statistics(name)))
        else:
            columns.append(truth.normalised_probability(np.exp(-found.own), [np.exp(-one) for one in found.wrong]))
        arrays += _side_by_side(columns)

    def utility(*parts: np.ndarray) -> float:
        return truth.harmonic_mean(np.concatenate([part.mean(0) for part in parts]))

    return {"all": m.estimate(utility, *arrays)}


def klom_of(m: Measurement) -> dict:
    def margins(models: list[MeasuredModel], name: str) -> np.ndarray:
        return np.stack([_klom.sample_margins(one.statistics(name)) for one in models])

    return {
        name: m.estimate(np.mean, _klom.klom(margins(m.references, name), margins(m.models, name)))
        for name in m.model.sets
    }


def calibration_of(m: Measurement) -> dict:
    def sums(name: str) -> np.ndarray:
        found = m.model.statistics(name)
        return _calibration.bin_sums(
            found.confidence.numpy(), found.correct.numpy(), found.sample.numpy(), found.samples
        )

    return {name: m.estimate(_calibration.calibration_error, sums(name)) for name in m.model.sets}


def equivalence_of(m: Measurement) -> dict:
    result = {}
    for name, samples in m.model.sets.items():
        if len(samples) < 2:
            continue
        pair = np.stack([memory.probability(one.statistics(name)) for one in (m.model, m.reference)], 1)
        found = m.estimate(lambda rows: equivalence_margin(rows[:, 0], rows[:, 1]), pair)
        result[name] = found | {"difference": tost(pair[:, 0], pair[:, 1], 1.0).difference}
    return result


def canary_bits(m: Measurement) -> dict:
    return {name: m.estimate(np.mean, bits) for name, bits in m.model.exposures.items()}


def perplexity_of(m: Measurement) -> dict:
    return {
        name: m.estimate(memory.perplexity_of_sums, memory.nll_sums(m.model.statistics(name))) for name in m.model.sets
    }
