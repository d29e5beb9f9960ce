"""TOFU's measures of knowledge: truth ratio, forget quality, model utility (Maini et al. 2024, arXiv 2401.06121)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastunlearn.audit.metrics.equivalence import compare_distributions
from fastunlearn.errors import InvalidInputError

__all__ = ["forget_quality", "harmonic_mean", "nearness", "normalised_probability", "truth_ratio", "truthfulness"]

MEANS = ("arithmetic", "geometric")


def truth_ratio(right: np.ndarray, wrong: Sequence[np.ndarray], *, mean: str = "arithmetic") -> np.ndarray:
    """(m,): R = mean over wrong answers of P(wrong | q)^(1/|wrong|), over P(right | q)^(1/|right|); 0 to infinity.

    ``right`` (m,): mean loss per token (nats) of each question's (paraphrased) right answer, so that P^(1/|.|) is
    exp(-loss); ``wrong``: for each question the losses of its perturbed answers. ``mean``: "arithmetic" is equation 1
    of TOFU; "geometric" (of the probabilities) is what its script takes for the forget quality.
    """
    if mean not in MEANS:
        raise InvalidInputError(f"mean={mean!r} is unknown; use one of {', '.join(MEANS)}")
    if len(right) != len(wrong) or any(len(one) == 0 for one in wrong):
        raise InvalidInputError("wrong: needs at least one wrong answer for every right one")
    with np.errstate(over="ignore"):
        if mean == "arithmetic":
            return np.array([np.mean(np.exp(r - np.asarray(w))) for r, w in zip(right, wrong, strict=True)])
        return np.array([np.exp(r - np.mean(w)) for r, w in zip(right, wrong, strict=True)])


def nearness(ratios: np.ndarray) -> np.ndarray:
    """min(R, 1/R), 0 to 1: 1 where right and wrong answers are equally likely (TOFU's aggregate on forgotten data)."""
    with np.errstate(divide="ignore"):
        return np.minimum(ratios, 1.0 / ratios)


def truthfulness(ratios: np.ndarray) -> np.ndarray:
    """max(0, 1 - R), 0 to 1: 1 where only the right answer is likely (TOFU's aggregate on kept data)."""
    return np.maximum(0.0, 1.0 - ratios)


def normalised_probability(right: np.ndarray, wrong: Sequence[np.ndarray]) -> np.ndarray:
    """P(right) / (P(right) + sum P(wrong)), 0 to 1: TOFU's probability on real authors and world facts."""
    return np.array([r / (r + np.sum(w)) for r, w in zip(right, wrong, strict=True)])


def forget_quality(ratios: np.ndarray, reference: np.ndarray, *, alpha: float = 0.05) -> dict:
    """The two-sample Kolmogorov-Smirnov test between the truth ratios of a model and those of the retrained one.

    ``value``: its p-value, 0 to 1; high means that no difference was found, which few items also give: so
    ``statistic`` (the distance D), ``critical`` (the D above which p < alpha) and ``bound`` (see
    :func:`~fastunlearn.audit.metrics.equivalence.ks_bound`) stand beside it. Source: TOFU, section 2.2.
    """
    found = compare_distributions(ratios, reference, alpha=alpha)
    return {"value": found.p_value, "statistic": found.statistic, "critical": found.critical, "bound": found.bound}


def harmonic_mean(values: Sequence[float]) -> float:
    """n / sum(1 / v); 0 where one value is 0. TOFU's model utility is that of nine numbers: probability, ROUGE-L
    recall and truth ratio (:func:`truthfulness`) on retained data, real authors and world facts."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or bool((array < 0).any()) or bool(np.isnan(array).any()):
        raise InvalidInputError("values: needs at least one number, none of them negative or NaN")
    return 0.0 if bool((array == 0).any()) else float(array.size / np.sum(1.0 / array))
