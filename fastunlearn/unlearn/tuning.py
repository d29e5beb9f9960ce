"""Choosing a method's settings by trial, every trial within the same budget of gradient evaluations.

What decides is what a user can see without a retrained model: whether enough was forgotten, then how little the
model drifted from the original on the probe records.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from fastunlearn.errors import DivergedError, InvalidInputError

from .api import unlearn
from .result import UnlearnResult
from .snapshot import Snapshot, restored_on_failure

__all__ = ["GRIDS", "Trial", "tune"]

_SPEND = {"stop": "budget", "check_every": 8}  # retained data repairs on: the first point that forgets is not the best


def _rates(*rates: float, **more) -> list[dict]:
    return [{"learning_rate": rate, **more} for rate in rates]


def _repaired(*pairs: tuple[float, float], **more) -> list[dict]:
    return [{"learning_rate": rate, "retain_weight": weight, **more, **_SPEND} for rate, weight in pairs]


#: What is tried for each first-order method: chosen around the best of a wider search on the demo's model, seed 0.
GRIDS: dict[str, list[dict]] = {
    "gradient-ascent": _rates(5e-5, 3e-4, check_every=2),
    "npo": _rates(2e-5, 5e-5, beta=0.5, check_every=4) + _rates(5e-5, beta=0.1, check_every=4),
    "bounded-ascent": _rates(3e-5, 1e-4, check_every=2),
    "gradient-difference": _repaired((2e-4, 1.0), (3e-4, 2.0), (3e-4, 4.0), (4e-4, 1.0)),
    "npo-retain": _repaired((2e-4, 1.0), (4e-4, 1.0), (4e-4, 2.0), beta=0.5) + _repaired((3e-4, 1.0), beta=0.1),
    "bounded-difference": _repaired((2e-4, 1.0), (2e-4, 4.0), (4e-4, 4.0)),
    "finetune": [one | _SPEND for one in _rates(1e-3, 2e-3)],
}


@dataclass
class Trial:
    """One run: the ``settings`` tried, the ``result`` (or None where it failed, with the ``error``)."""

    settings: dict
    result: UnlearnResult | None
    error: str = ""

    def rank(self) -> tuple:
        """Smaller is better: failed last, then not forgotten by how much is left, then drift."""
        if self.result is None:
            return (2, 0.0, 0.0)
        last = self.result.steps[-1]
        drift = math.inf if last["kl_probe"] is None else last["kl_probe"]
        if self.result.stopped.startswith("reached"):
            return (0, drift, 0.0)
        return (1, last["forget_accuracy"], drift)


def tune(
    model: nn.Module,
    tokenizer,
    *,
    method: str,
    grid: Sequence[dict],
    on_trial: Callable[[Trial], None] | None = None,
    **arguments,
) -> tuple[Trial, list[Trial]]:
    """Runs ``unlearn`` from the model's present weights once for each settings of ``grid``; leaves the model as the
    best trial made it. ``on_trial`` is called with the model in the state of that trial.

    Returns the best trial and all of them. Raises InvalidInputError where the grid is empty or every trial
    failed (the model is then as it was).
    """
    if not grid:
        raise InvalidInputError("grid is empty: give at least one dict of settings")
    parameters = dict(model.named_parameters())
    trials: list[Trial] = []
    best_weights = None
    with restored_on_failure(model, parameters) as start:
        for settings in grid:
            start.restore()
            try:
                trial = Trial(settings, unlearn(model, tokenizer, method=method, **arguments, **settings))
            except DivergedError as error:  # any other error would be the same in every trial
                trial = Trial(settings, None, str(error))
            trials.append(trial)
            if on_trial is not None:
                on_trial(trial)
            if trial.rank() <= min(one.rank() for one in trials):
                best_weights = Snapshot(parameters)
        best = min(trials, key=Trial.rank)
        if best.result is None:
            raise InvalidInputError(f"every trial of {method} failed; the first said: {trials[0].error}")
        best_weights.restore()
    model.eval()
    return best, trials
