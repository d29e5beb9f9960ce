"""What an attack brought back, and how that stands beside the retrained model under the same attack."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fastunlearn.audit.bootstrap import interval

__all__ = ["Outcome", "compare"]


@dataclass(frozen=True)
class Outcome:
    """Of one model: ``measures``: by name, each record's value before and after the attack, two arrays (n,) of which
    higher means more is remembered. ``facts``: what else the report should say (JSON-ready)."""

    measures: dict[str, tuple[np.ndarray, np.ndarray]]
    facts: dict

    @property
    def records(self) -> int:
        """How many records were looked at."""
        return len(next(iter(self.measures.values()))[0])


def _gain(before_after: np.ndarray) -> float:
    return float((before_after[:, 1] - before_after[:, 0]).mean())


def _side(estimate: Callable, pair: np.ndarray) -> dict:
    return {
        "before": estimate(lambda rows: rows[:, 0].mean(), pair),
        "after": estimate(lambda rows: rows[:, 1].mean(), pair),
        "regained": estimate(_gain, pair),
    }


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else math.nan


def compare(model: Outcome, reference: Outcome | None, *, level: float, resamples: int, seed: int) -> dict:
    """By measure: ``model`` and ``reference`` (None without one), each with ``before``, ``after`` and ``regained`` =
    after - before; ``excess``: what the model regains beyond the reference; ``ratio``: regained by the model over
    regained by the reference, None where that regains nothing; ``after_ratio``: the two values after the attack. Every
    leaf has ``value``, ``low``, ``high`` by the percentile bootstrap over records, the same ones for both models; a
    ratio has no interval (None) where the reference's gain is nothing in any of the resamples.
    """

    def estimate(statistic: Callable[[np.ndarray], float], rows: np.ndarray) -> dict:
        with np.errstate(invalid="ignore"):
            found = interval(statistic, rows, level=level, resamples=resamples, seed=seed)
        return {name: value if math.isfinite(value) else None for name, value in found._asdict().items()}

    result = {}
    for name, pair in model.measures.items():
        own = np.stack(pair, 1)
        found = {"model": _side(estimate, own), "reference": None, "excess": None, "ratio": None, "after_ratio": None}
        if reference is not None:
            other = np.stack(reference.measures[name], 1)
            both = np.concatenate([own, other], 1)
            found["reference"] = _side(estimate, other)
            found["excess"] = estimate(lambda rows: _gain(rows[:, :2]) - _gain(rows[:, 2:]), both)
            found["ratio"] = estimate(lambda rows: _ratio(_gain(rows[:, :2]), _gain(rows[:, 2:])), both)
            found["after_ratio"] = estimate(lambda rows: _ratio(rows[:, 1].mean(), rows[:, 3].mean()), both)
        result[name] = found
    return result
