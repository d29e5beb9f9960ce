"""The loop of the methods that take many small steps on batches: an objective, an update, and looks in between.

An *objective* is a scalar of a batch of forget records plus a weighted one of a batch of retained records; the gradient
of the sum is the direction. An *update* turns it into a change of the weights: Adam, unless a method brings its own.
The *guard* are the looks of the monitor, which end a run and choose the point to go back to. A gradient evaluation is
one record's gradient; every method counts them alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fastunlearn.data.encode import Encoded
from fastunlearn.errors import DivergedError, InvalidInputError
from fastunlearn.operators.losses import TokenLoss, negative_log_likelihood
from fastunlearn.operators.model_state import evaluation
from fastunlearn.operators.targets import make_batch, target_logits

from .monitor import Monitor
from .request import Request
from .settings import at_least, choice, number, optional, whole
from .snapshot import Snapshot

__all__ = ["Adam", "DescentSettings", "Objective", "Update", "descend", "mean_loss", "record_losses"]

#: A scalar of some records, differentiable, given them and their places in the request's list.
Part = Callable[[list[Encoded], list[int]], Tensor]


@dataclass(frozen=True, kw_only=True)
class DescentSettings:
    """``learning_rate``: of Adam. ``gradients``: budget of per-record gradient evaluations. ``batch``: forget
    records per step, and as many retained ones where the method uses them. ``check_every``: steps between two
    looks at the forget accuracy. ``stop``: "target" stops at the first look at which enough is forgotten; "budget"
    spends all, and then goes back to the look, among those at which enough was forgotten, with the least drift.
    ``target_accuracy``, ``target_loss``: see Monitor."""

    learning_rate: float = number(1e-4, above=0)
    gradients: int = whole(4000, least=1)
    batch: int = whole(16, least=1)
    check_every: int = whole(1, least=1)
    stop: str = choice("target", "budget")
    target_accuracy: float | None = optional(at_least(None, 0, most=1))
    target_loss: float | None = optional(at_least(None, 0))


@dataclass(frozen=True)
class Objective:
    """``forget + weight * retain``, to go down; either part may be absent, and weight 0 leaves the retained part
    out."""

    forget: Part | None = None
    retain: Part | None = None
    weight: float = 1.0


class Update(Protocol):
    """Changes the parameters from their ``.grad``."""

    def extra(self, step: int, records: int) -> int:
        """Gradient evaluations that :meth:`move` takes beside the objective's, at this step (from 0)."""

    def move(self, step: int, forget: list[Encoded], retain: list[Encoded]) -> None:
        """One step; ``forget`` and ``retain`` are the batch's records."""


class Adam:
    """Kingma and Ba 2015, with the usual constants."""

    def __init__(self, request: Request, settings: DescentSettings):
        self._optimizer = torch.optim.Adam(list(request.parameters.values()), lr=settings.learning_rate)

    def extra(self, step: int, records: int) -> int:
        return 0

    def move(self, step: int, forget: list[Encoded], retain: list[Encoded]) -> None:
        self._optimizer.step()


def _draws(samples: list[Encoded], size: int, seed: int) -> Iterator[list[int]]:
    """Endless batches of indices: permutations of all, one after the other."""
    generator = torch.Generator().manual_seed(seed)
    queue: list[int] = []
    while True:
        while len(queue) < size:
            queue += torch.randperm(len(samples), generator=generator).tolist()
        yield queue[:size]
        queue = queue[size:]


def record_losses(request: Request, samples: list[Encoded], token_loss: TokenLoss) -> tuple[Tensor, Tensor]:
    """Each record's summed loss (b,), differentiable, and its number of target tokens (b,)."""
    found = target_logits(request.model, make_batch(request.model, samples, request.pad_token_id))
    losses = token_loss(found.logits, found.tokens)
    sums = losses.new_zeros(len(samples)).index_add(0, found.sample, losses)
    return sums, torch.bincount(found.sample, minlength=len(samples))


def mean_loss(request: Request, token_loss: TokenLoss = negative_log_likelihood, sign: int = 1) -> Part:
    """``sign`` times the mean of the loss over the target tokens of the batch."""

    def part(samples: list[Encoded], _places: list[int]) -> Tensor:
        sums, counts = record_losses(request, samples, token_loss)
        return sign * sums.sum() / counts.sum()

    return part


class _Looks:
    """The step log, and when to end: at the first look at which enough is forgotten, or after the whole budget with
    the weights of the best look."""

    def __init__(self, monitor: Monitor, settings: DescentSettings):
        self.monitor, self._settings = monitor, settings
        self.steps = [monitor.look(0, gradients=0)]
        self._best: tuple[float, int, Snapshot] | None = None

    def look(self, step: int) -> bool:
        """Looks where it is time to; whether to stop."""
        if step % self._settings.check_every:
            return False
        return self._look(step)

    def _look(self, step: int) -> bool:
        request = self.monitor.request
        try:
            self.steps.append(self.monitor.look(step, gradients=request.gradients))
        except InvalidInputError as error:  # the model's logits hold NaN or infinity
            raise DivergedError(f"the model became unusable at step {step}: lower learning_rate ({error})") from error
        if not self.monitor.done(self.steps[-1]):
            return False
        if self._settings.stop == "target":
            return True
        drift = self.steps[-1]["kl_probe"]
        drift = 0.0 if drift is None else drift
        if self._best is None or drift < self._best[0]:
            self._best = drift, step, Snapshot(request.parameters)
        return False

    def end(self, step: int) -> str:
        """When the budget is spent: looks once more, goes back to the best look, and says why it ended."""
        spent = self.monitor.request.gradients
        if self.steps[-1]["step"] != step and self._look(step):
            return f"reached {self.monitor.target}"
        if self._best is None:
            return f"the budget of {self._settings.gradients} gradients is spent"
        _, best, weights = self._best
        if best != step:
            weights.restore()
            self.steps.append(self.monitor.look(step + 1, gradients=spent, back_to_step=best))
        return f"reached {self.monitor.target}; with the whole budget spent, step {best} has the least drift"


def descend(
    request: Request,
    settings: DescentSettings,
    objective: Objective,
    *,
    monitor: Monitor | None = None,
    update: Update | None = None,
) -> tuple[list[dict], str]:
    """Steps down ``objective`` until enough is forgotten or the budget is spent; the step log, and why it ended."""
    uses_retain = objective.retain is not None and objective.weight > 0
    if objective.forget is None and not uses_retain:
        raise InvalidInputError("retain_weight must be above 0 for a method without a forget loss")
    monitor = monitor or Monitor(request, target_accuracy=settings.target_accuracy, target_loss=settings.target_loss)
    looks = _Looks(monitor, settings)
    if monitor.done(looks.steps[0]):
        return looks.steps, "nothing to do: forgotten already"
    parameters = list(request.parameters.values())
    update = update or Adam(request, settings)
    forget = _draws(request.forget, min(settings.batch, len(request.forget)), request.seed)
    retain = _draws(request.retain, min(settings.batch, len(request.retain)), request.seed + 1) if uses_retain else None
    total, step = settings.gradients, 0
    with request.progress.task("Gradient steps", total=total, unit="gradient") as task:
        while True:
            chosen = next(forget) if objective.forget is not None else []
            kept = next(retain) if retain is not None else []
            cost = len(chosen) + len(kept)
            if request.gradients + cost + update.extra(step, cost) > total:
                return looks.steps, looks.end(step)
            spent = request.gradients
            sides = [request.forget[i] for i in chosen], [request.retain[i] for i in kept]
            for parameter in parameters:
                parameter.grad = None
            with evaluation(request.model, parameters):
                _loss(objective, sides, (chosen, kept), parameters[0], step).backward()
            request.spend(cost)
            update.move(step, *sides)
            task.advance(request.gradients - spent)
            step += 1
            stop = looks.look(step)
            task.note(f"forget accuracy {looks.steps[-1]['forget_accuracy']:.3f}")
            if stop:
                return looks.steps, f"reached {monitor.target}"


def _loss(objective: Objective, sides, places, like: Tensor, step: int) -> Tensor:
    loss = torch.zeros((), device=like.device)
    if sides[0]:
        loss = loss + objective.forget(sides[0], places[0])
    if sides[1]:
        loss = loss + objective.weight * objective.retain(sides[1], places[1])
    if not bool(torch.isfinite(loss)):
        raise DivergedError(f"the loss became {loss.item()} at step {step}: lower learning_rate")
    return loss
