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
    """Maps whole decades to pixels; what lies below the lowest one (0 as well) falls on ``floor``."""

    low: int
    high: int
    start: float
    end: float
    floor: float

    def __call__(self, value: float) -> float:
        if value < 10.0**self.low:
            return self.floor
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + min(1.0, share) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """The powers of ten; with few decades also 2 and 5 times them."""
        factors = (1, 2, 5) if self.high - self.low <= 2 else (1,)
        values = [factor * 10.0**power for power in range(self.low, self.high + 1) for factor in factors]
        return [value for value in values if value <= 10.0**self.high]


def linear(values: Sequence[float], start: float, end: float, *, step: float = 0.1) -> Linear:
    """A range of whole steps around shares (0 to 1), at least two steps wide."""
    low = max(0.0, math.floor(min(values) / step + 1e-9) * step)
    high = min(1.0, math.ceil(max(values) / step - 1e-9) * step)
    if high - low < 2 * step:
        low, high = max(0.0, low - step), min(1.0, high + step)
    return Linear(low, high, start, end)


def log(values: Sequence[float], start: float, end: float, floor: float) -> Log:
    """A range of whole decades around the positive ones of ``values``, at most six."""
    positive = [value for value in values if value > 0] or [1.0]
    high = math.ceil(math.log10(max(positive)) - 1e-9)
    low = max(math.floor(math.log10(min(positive)) + 1e-9), high - DECADES)
    return Log(low if low < high else high - 1, high, start, end, floor)
