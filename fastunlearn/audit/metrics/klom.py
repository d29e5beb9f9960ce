"""KLOM: the KL divergence of margins between many retrained and many unlearned models (Georgiev et al. 2024)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fastunlearn.errors import InvalidInputError

__all__ = ["ESTIMATORS", "MANY", "klom", "sample_margins"]

ESTIMATORS = ("auto", "gaussian", "histogram")
#: Models of each kind from which a histogram of 20 bins says anything.
MANY = 20
BINS, CLIP, EMPTY, LEAST_SPREAD = 20, 100.0, 1e-5, 1e-2


def sample_margins(scores) -> np.ndarray:
    """(m,): each record's margin, the mean over its target tokens of log p - log(1 - p), in nats; ``scores``: a
    TokenStatistics. For one token that is KLOM's f_y - log sum_{k != y} exp f_k."""
    sums = np.zeros(scores.samples)
    np.add.at(sums, scores.sample.numpy(), scores.log_odds.numpy())
    return sums / np.bincount(scores.sample.numpy(), minlength=scores.samples)


def klom(retrained: ArrayLike, unlearned: ArrayLike, *, estimator: str = "auto") -> np.ndarray:
    """(m,): for each record KL(margins of the retrained models || margins of the unlearned ones), in nats.

    ``retrained`` (R, m), ``unlearned`` (U, m): margins of R and U models, at least two of each, all of other seeds.
    ``estimator``: "histogram" is the paper's (20 bins over the range of both, margins cut at +-100, 1e-5 in empty
    bins); it needs tens of models. "gaussian" takes means and standard deviations (n - 1; at least 0.01 nats) and the
    closed form log(s_u / s_r) + (s_r^2 + (m_r - m_u)^2) / (2 s_u^2) - 1/2; with few models it is a rough figure too.
    "auto": the histogram from 20 models of each kind, else Gaussian. Source: arXiv 2410.23232, appendix E.1.
    """
    p, q = (np.clip(np.asarray(one, dtype=np.float64), -CLIP, CLIP) for one in (retrained, unlearned))
    if p.ndim != 2 or q.ndim != 2 or p.shape[1:] != q.shape[1:] or min(len(p), len(q)) < 2 or p.shape[1] == 0:
        raise InvalidInputError("retrained and unlearned must be (models, records), two models each or more")
    if np.isnan(p).any() or np.isnan(q).any():
        raise InvalidInputError("retrained and unlearned must hold no NaN")
    if estimator not in ESTIMATORS:
        raise InvalidInputError(f"estimator={estimator!r} is unknown; use one of {', '.join(ESTIMATORS)}")
    if estimator == "gaussian" or (estimator == "auto" and min(len(p), len(q)) < MANY):
        return _gaussian(p, q)
    return np.array([_histogram(p[:, i], q[:, i]) for i in range(p.shape[1])])


def _gaussian(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    s, t = (np.maximum(one.std(0, ddof=1), LEAST_SPREAD) for one in (p, q))
    return np.log(t / s) + (s**2 + (p.mean(0) - q.mean(0)) ** 2) / (2 * t**2) - 0.5


def _histogram(p: np.ndarray, q: np.ndarray) -> float:
    low, high = min(p.min(), q.min()), max(p.max(), q.max())
    if low == high:
        return 0.0
    parts = [np.histogram(one, bins=BINS, range=(low, high))[0] / one.size for one in (p, q)]
    a, b = (np.maximum(part, EMPTY) for part in parts)
    a, b = a / a.sum(), b / b.sum()
    return float((a * np.log(a / b)).sum())
