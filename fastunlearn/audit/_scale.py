"""Where numbers fall on the axes of the plot, and which of them get a tick."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

DECADES = 6


@dataclass(frozen=True)
class Linear:
    """Maps ``low``..``high`` to pixels ``start``..``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, step: float) -> list[float]:
        """Multiples of ``step`` within the range."""
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


@dataclass(frozen=True)
class Log:
    """Maps 10**``low``..10**``high`` to pixels; what lies below (0 as well) falls on ``floor``."""

    low: float
    high: float
    start: float
    end: float
    floor: float

    def __call__(self, value: float) -> float:
        if value < 10.0**self.low * (1 - 1e-9):
            return self.floor
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + min(1.0, share) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """The powers of ten; with few decades also 2 and 5 times them."""
        factors = (1, 2, 5) if self.high - self.low <= 2 else (1,)
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        values = [factor * 10.0**power for power in powers for factor in factors]
        return [value for value in values if self.low - 1e-9 <= math.log10(value) <= self.high + 1e-9]


def linear(values: Sequence[float], start: float, end: float, *, step: float = 0.1) -> Linear:
    """A range of whole steps around shares (0 to 1), at least two steps wide."""
    low = max(0.0, math.floor(min(values) / step + 1e-9) * step)
    high = min(1.0, math.ceil(max(values) / step - 1e-9) * step)
    if high - low < 2 * step:
        low, high = max(0.0, low - step), min(1.0, high + step)
    return Linear(low, high, start, end)


def log(values: Sequence[float], start: float, end: float, floor: float) -> Log:
    """A range around the positive ones of ``values``: whole decades, at most six; where it is two decades
    or less, it begins and ends at 1, 2 or 5 times a power of ten."""
    positive = [value for value in values if value > 0] or [1.0]
    least, most = math.log10(min(positive)), math.log10(max(positive))
    high = math.ceil(most - 1e-9)
    low = max(math.floor(least + 1e-9), high - DECADES)
    if low == high:
        low -= 1
    if high - low <= 2:
        ends = [power + math.log10(factor) for power in range(low, high + 1) for factor in (1, 2, 5)]
        first = max((one for one in ends if one <= least + 1e-9), default=ends[0])
        last = min(one for one in ends if one >= most - 1e-9 and one > first + 1e-9)
        return Log(first, last, start, end, floor)
    return Log(low, high, start, end, floor)
