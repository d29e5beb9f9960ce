"""What an attack brought back, and how that stands beside the retrained model under the same attack."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fastunlearn.audit.bootstrap import interval
from fastunlearn.audit.membership import auc

__all__ = ["Outcome", "Scores", "compare"]

Pair = tuple[np.ndarray, np.ndarray]


class Scores(NamedTuple):
    """Scores before and after the attack of the forgotten records, ``own``, two arrays (n,), and of records that no
    model has seen, ``others``, two (m,); a lower one looks more like a member's. What is measured is their AUC."""

    own: Pair
    others: Pair


@dataclass(frozen=True)
class Outcome:
    """Of one model: ``measures``: by name, each record's value before and after the attack, two arrays (n,) of which
    higher means more is remembered, or :class:`Scores`. ``facts``: what else the report should say (JSON-ready)."""

    measures: dict[str, Pair | Scores]
    facts: dict

    @property
    def records(self) -> int:
        """How many forgotten records were looked at."""
        first = next(iter(self.measures.values()))
        return len((first.own if isinstance(first, Scores) else first)[0])


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else math.nan


class _Measure:
    """One measure of one or two models: ``arrays`` to resample, each with columns before and after, of the model and
    then of the reference; ``value`` of a column of these arrays and ``gain`` of a column and the next."""

    def __init__(self, models: list[Pair | Scores]):
        first = models[0]
        self.two_sets = isinstance(first, Scores)
        sides = zip(*models, strict=True) if self.two_sets else [models]
        self.arrays = [np.stack([one for pair in side for one in pair], 1) for side in sides]

    def value(self, column: int, *arrays: np.ndarray) -> float:
        if self.two_sets:
            return auc(*(array[:, column] for array in arrays))
        return arrays[0][:, column].mean()

    def gain(self, column: int, *arrays: np.ndarray) -> float:
        if self.two_sets:
            return self.value(column + 1, *arrays) - self.value(column, *arrays)
        return float((arrays[0][:, column + 1] - arrays[0][:, column]).mean())

    def found(self, estimate: Callable[..., dict], *, reference: bool) -> dict:
        value, gain = self.value, self.gain

        def side(column: int) -> dict:
            return {
                "before": estimate(lambda *rows: value(column, *rows), *self.arrays),
                "after": estimate(lambda *rows: value(column + 1, *rows), *self.arrays),
                "regained": estimate(lambda *rows: gain(column, *rows), *self.arrays),
            }

        found = {"model": side(0), "reference": None, "excess": None, "ratio": None, "after_ratio": None}
        if reference:
            both = {
                "excess": lambda *rows: gain(0, *rows) - gain(2, *rows),
                "ratio": lambda *rows: _ratio(gain(0, *rows), gain(2, *rows)),
                "after_ratio": lambda *rows: _ratio(value(1, *rows), value(3, *rows)),
            }
            found["reference"] = side(2)
            found |= {name: estimate(statistic, *self.arrays) for name, statistic in both.items()}
        return found


def compare(model: Outcome, reference: Outcome | None, *, level: float, resamples: int, seed: int) -> dict:
    """By measure: ``model`` and ``reference`` (None without one), each with ``before``, ``after`` and ``regained`` =
    after - before; ``excess``: what the model regains beyond the reference; ``ratio``: regained by the model over
    regained by the reference, None where that regains nothing; ``after_ratio``: the two values after the attack. Every
    leaf has ``value``, ``low``, ``high`` by the percentile bootstrap over records, the same ones for both models, and
    of :class:`Scores` over those of each side; a ratio has no interval (None) where the reference's gain is nothing in
    any of the resamples.
    """

    def estimate(statistic: Callable[..., float], *arrays: np.ndarray) -> dict:
        with np.errstate(invalid="ignore"):
            found = interval(statistic, *arrays, level=level, resamples=resamples, seed=seed)
        return {name: value if math.isfinite(value) else None for name, value in found._asdict().items()}

    result = {}
    for name, own in model.measures.items():
        models = [own] if reference is None else [own, reference.measures[name]]
        result[name] = _Measure(models).found(estimate, reference=reference is not None)
    return result
