"""Tests that two models are alike, where a high p-value of an ordinary test would be weak evidence.

An ordinary test asks whether a difference was found; with few items none is found, whatever the models are. An
equivalence test turns the burden round: it shows that the difference is *below a margin*, or does not.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastunlearn.errors import InvalidInputError

__all__ = ["Distributions", "Tost", "compare_distributions", "equivalence_margin", "ks_bound", "ks_critical", "tost"]


class Distributions(NamedTuple):
    """``statistic``: D, the largest distance of the two empirical distribution functions, 0 to 1; ``p_value`` of the
    two-sample Kolmogorov-Smirnov test; ``critical``: the D at which p is about alpha; ``bound``: :func:`ks_bound`."""

    statistic: float
    p_value: float
    critical: float
    bound: float


class Tost(NamedTuple):
    """``difference``: mean(x) - mean(y). ``p_value``: of the hypothesis that it is beyond the margin; a low one shows
    equivalence. ``margin``: the smallest margin within which equivalence is shown at level alpha."""

    difference: float
    p_value: float
    margin: float


def _stats():
    try:
        from scipy import stats
    except ImportError:
        raise InvalidInputError(
            "this metric needs SciPy, which is not installed: pip install scipy, or leave it out"
        ) from None
    return stats


def _array(values: ArrayLike, name: str, least: int) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size < least or bool(np.isnan(array).any()):
        raise InvalidInputError(f"{name}: needs one dimension, at least {least} values, and no NaN")
    return array


def ks_critical(n: int, m: int, alpha: float = 0.05) -> float:
    """The D above which the two-sample Kolmogorov-Smirnov test rejects at ``alpha``: sqrt(-log(alpha / 2) / 2) *
    sqrt((n + m) / (n m)), asymptotically (Smirnov 1948). With 40 and 40 items .304: any smaller distance passes."""
    return math.sqrt(-math.log(alpha / 2) / 2) * math.sqrt((n + m) / (n * m))


def ks_bound(statistic: float, n: int, m: int, alpha: float = 0.05) -> float:
    """An upper confidence bound at level 1 - ``alpha`` for the distance D of the two *true* distributions, at most 1.

    D is below D_observed + e_n + e_m, where each empirical distribution function is within e of its true one with
    probability 1 - alpha / 2: e_n = sqrt(log(4 / alpha) / (2 n)) (Dvoretzky, Kiefer & Wolfowitz 1956 with Massart's
    constant, 1990; the two errors share alpha). No assumption on the distributions; with 40 and 40 items it is at
    least .468, so that few items never show equivalence.
    """
    return min(1.0, statistic + sum(math.sqrt(math.log(4 / alpha) / (2 * size)) for size in (n, m)))


def compare_distributions(x: ArrayLike, y: ArrayLike, *, alpha: float = 0.05) -> Distributions:
    """The two-sample Kolmogorov-Smirnov test (scipy.stats.ks_2samp) with what it can and cannot show."""
    x, y = _array(x, "x", 1), _array(y, "y", 1)
    found = _stats().ks_2samp(x, y)
    distance = float(found.statistic)
    return Distributions(
        distance, float(found.pvalue), ks_critical(x.size, y.size, alpha), ks_bound(distance, x.size, y.size, alpha)
    )


def _standard_error(x: np.ndarray, y: np.ndarray, paired: bool) -> tuple[float, float]:
    """Standard error of mean(x) - mean(y) and its degrees of freedom (Welch 1947 where not paired)."""
    if paired:
        return float(np.std(x - y, ddof=1) / math.sqrt(x.size)), x.size - 1.0
    a, b = np.var(x, ddof=1) / x.size, np.var(y, ddof=1) / y.size
    if a + b == 0:
        return 0.0, float(x.size + y.size - 2)
    return float(math.sqrt(a + b)), float((a + b) ** 2 / (a**2 / (x.size - 1) + b**2 / (y.size - 1)))


@lru_cache(maxsize=256)
def _quantile(level: float, freedom: float) -> float:
    """Of Student's t distribution; kept, as resamples of paired items all ask for the same one."""
    return float(_stats().t.ppf(level, freedom))


def tost(x: ArrayLike, y: ArrayLike, margin: float, *, paired: bool = True, alpha: float = 0.05) -> Tost:
    """Two one-sided t tests that |mean(x) - mean(y)| < ``margin`` (Schuirmann 1987).

    ``paired``: x_i and y_i belong to one item. The smallest margin that is shown is the larger end, in size, of the
    1 - 2 alpha interval of the difference. Raises InvalidInputError.
    """
    x, y = _pair(x, y, paired)
    if not margin > 0:
        raise InvalidInputError(f"margin={margin} must be positive: the largest difference that does not matter")
    difference, error, shown, freedom = _shown(x, y, paired, alpha)
    if error == 0:
        return Tost(difference, 0.0 if abs(difference) < margin else 1.0, shown)
    student = _stats().t
    below = float(student.sf((difference + margin) / error, freedom))
    above = float(student.cdf((difference - margin) / error, freedom))
    return Tost(difference, max(below, above), shown)


def _pair(x: ArrayLike, y: ArrayLike, paired: bool) -> tuple[np.ndarray, np.ndarray]:
    x, y = _array(x, "x", 2), _array(y, "y", 2)
    if paired and x.size != y.size:
        raise InvalidInputError(f"x has {x.size} values and y {y.size}: pass paired=False where they are not paired")
    return x, y


def _shown(x: np.ndarray, y: np.ndarray, paired: bool, alpha: float) -> tuple[float, float, float, float]:
    """The difference of the means, its standard error, the smallest margin shown, and the degrees of freedom."""
    difference = float(x.mean() - y.mean())
    error, freedom = _standard_error(x, y, paired)
    return difference, error, abs(difference) + error * _quantile(1 - alpha, freedom), freedom


def equivalence_margin(x: ArrayLike, y: ArrayLike, *, paired: bool = True, alpha: float = 0.05) -> float:
    """The smallest margin within which :func:`tost` shows that the means of x and y are alike."""
    return _shown(*_pair(x, y, paired), paired, alpha)[2]
