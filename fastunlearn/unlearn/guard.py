"""The guard of a step: a line search on a KL budget, and a step cut short where enough is forgotten."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError

from .monitor import Monitor
from .snapshot import Snapshot

__all__ = ["Move", "guarded_move"]

HALVINGS = 5
BISECTIONS = 4


@dataclass
class Move:
    """``scale``: the share of the proposed step that was taken (0: none). ``drift``: KL on the probe after it."""

    scale: float
    drift: float | None


def _is_finite(step: dict[str, Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in step.values())


def guarded_move(
    monitor: Monitor, step: dict[str, Tensor], budget: float | None, *, shorten: bool = True, halvings: int = HALVINGS
) -> Move:
    """Moves the model by the largest of step, step/2, ..., step/2^halvings that keeps the drift within ``budget`` nats.

    ``budget`` None: any drift. Where that reaches the target forgetting, the move is shortened (bisection) to about
    the least that reaches it, unless ``shorten`` is False: further pushing would only do harm. The model is where
    it was if no scale will do. Raises InvalidInputError where the step is not finite.
    """
    if not _is_finite(step):
        raise InvalidInputError("the step holds NaN or infinity: raise damping, or use float32 weights")
    start = Snapshot(monitor.request.parameters)
    scale = 1.0
    for _ in range(halvings + 1):
        start.move(step, scale)
        drift = _drift(monitor, budget)
        if _allowed(drift, budget):
            break
        scale /= 2
    else:
        start.restore()
        return Move(0.0, monitor.drift())
    if not shorten or not monitor.forgotten():
        return Move(scale, drift)
    shorter = _least_enough(monitor, start, step, scale)
    shorter_drift = monitor.drift()
    if _allowed(shorter_drift, budget):
        return Move(shorter, shorter_drift)
    start.move(step, scale)  # drift need not grow along the step: the longer move, known to be within the budget
    return Move(scale, drift)


def _drift(monitor: Monitor, budget: float | None) -> float | None:
    """Infinite where the step took the weights so far that the logits are no numbers: a shorter one may do."""
    try:
        return monitor.drift()
    except InvalidInputError:
        if budget is None:
            raise
        return math.inf


def _allowed(drift: float | None, budget: float | None) -> bool:
    return budget is None or drift is None or drift <= budget  # False for NaN


def _least_enough(monitor: Monitor, start: Snapshot, step: dict[str, Tensor], high: float) -> float:
    low = 0.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        start.move(step, middle)
        if monitor.forgotten():
            high = middle
        else:
            low = middle
    start.move(step, high)
    return high

