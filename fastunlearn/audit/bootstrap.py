"""Percentile bootstrap intervals (Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastunlearn.errors import InvalidInputError

__all__ = ["Interval", "interval"]


class Interval(NamedTuple):
    """A statistic of the data and the two ends of its interval."""

    value: float
    low: float
    high: float


def interval(
    statistic: Callable[..., float],
    *arrays: ArrayLike,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """``statistic(*arrays)`` with its percentile bootstrap interval.

    Each array is resampled along its first axis with replacement, apart from the others. The same seed
    gives the same interval. The interval speaks of the chance of the records, not of the training.
    """
    if not 0 < level < 1:
        raise InvalidInputError(f"level={level} must lie between 0 and 1, such as 0.95")
    if resamples < 1:
        raise InvalidInputError(f"resamples={resamples} must be at least 1; 1000 is usual")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InvalidInputError(f"seed={seed!r} must be an integer of at least 0")
    data = [np.asarray(array) for array in arrays]
    if not data or any(array.ndim == 0 or len(array) == 0 for array in data):
        raise InvalidInputError("arrays: pass at least one array, none of them empty")
    generator = np.random.default_rng(seed)
    values = np.empty(resamples)
    for index in range(resamples):
        values[index] = statistic(*(array[generator.integers(len(array), size=len(array))] for array in data))
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(statistic(*data)), float(low), float(high))
