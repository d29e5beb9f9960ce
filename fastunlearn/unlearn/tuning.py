"""Choosing a method's settings by trial, every trial within the same budget of gradient evaluations.

What decides is what a user can see without a retrained model: whether enough was forgotten, then how little the
model drifted from the original on the probe records.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from fastunlearn.errors import DivergedError, InvalidInputError, NotPositiveDefiniteError

from .api import unlearn
from .result import UnlearnResult
from .snapshot import Snapshot, restored_on_failure

__all__ = ["Trial", "tune"]


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
        if self.result.enough:  # a run of one step, or one that goes on after its target, does not end by reaching it
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
    best, best_weights = None, None
    with restored_on_failure(model, parameters) as start:
        for settings in grid:
            start.restore()
            try:
                trial = Trial(settings, unlearn(model, tokenizer, method=method, **arguments, **settings))
            except (DivergedError, NotPositiveDefiniteError) as error:  # any other would be the same in every trial
                trial = Trial(settings, None, str(error))
            trials.append(trial)
            if on_trial is not None:
                on_trial(trial)
            if best is None or trial.rank() < best.rank():  # of equals the first, whose weights are kept
                best, best_weights = trial, Snapshot(parameters)
        if best is None or best.result is None:
            raise InvalidInputError(f"every trial of {method} failed; the first said: {trials[0].error}")
        best_weights.restore()
    model.eval()
    return best, trials
