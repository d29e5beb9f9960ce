"""Random search: the ranges of a method's settings, and draws from them (Bergstra and Bengio 2012)."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from fastunlearn.errors import InvalidInputError

__all__ = ["Logarithmic", "OneOf", "Range", "draw"]


@dataclass(frozen=True)
class Logarithmic:
    """A positive number whose logarithm is uniform between ``low`` and ``high``; drawn to three digits."""

    low: float
    high: float

    def at(self, share: float) -> float:
        """The value at ``share``, 0 to 1, of the way."""
        value = self.low * (self.high / self.low) ** share
        return float(f"{value:.3g}")


@dataclass(frozen=True)
class OneOf:
    """One of some values, each as likely as any other."""

    values: tuple

    def at(self, share: float) -> object:
        """The value at ``share``, from 0 to below 1, of the list."""
        return self.values[math.floor(share * len(self.values))]


Range = Logarithmic | OneOf


def draw(ranges: Mapping[str, Range], trials: int, seed: int) -> list[dict]:
    """``trials`` settings: first the defaults, {}, then draws. The first trials of a longer list are those of a
    shorter one, and nothing but ``seed`` and the ranges' names and bounds decides. Raises InvalidInputError."""
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise InvalidInputError(f"trials={trials!r} must be an integer of at least 1")
    streams = {name: random.Random(f"{seed} {name}") for name in ranges}  # a string seed is the same everywhere
    drawn = [{name: one.at(streams[name].random()) for name, one in ranges.items()} for _ in range(trials - 1)]
    return [{}, *drawn]
