"""First-order methods, for comparison: Adam on a loss of forget (and retained) batches.

    gradient-ascent       maximise the forget loss                                         (Jang et al. 2023)
    gradient-difference   maximise the forget loss, minimise the retained one              (Liu et al. 2022)
    npo                   -(2/beta) log sigmoid(-beta log(p / p_original)) per record, alone or with the retained
                          loss added                                                       (Zhang et al. 2024)
    finetune              minimise the retained loss and hope that the rest fades

Ascent can also go down the bounded pull of the second-order methods (``loss="log-odds"``), which shows what
curvature adds to it. A gradient evaluation is one record's gradient; every method counts them alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fastunlearn.data.encode import Encoded
from fastunlearn.errors import DivergedError, InvalidInputError
from fastunlearn.operators.losses import TokenLoss, negative_log_likelihood, softplus_log_odds
from fastunlearn.operators.model_state import evaluation
from fastunlearn.operators.targets import make_batch, target_logits

from .monitor import Monitor
from .request import Request
from .settings import at_least, choice, number, optional, whole
from .snapshot import Snapshot

__all__ = ["AscentSettings", "DescentSettings", "DifferenceSettings", "NPOSettings", "finetune", "gradient_ascent",
           "gradient_difference", "npo"]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Settings:
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


@dataclass(frozen=True, kw_only=True)
class AscentSettings(_Settings):
    """As above, and ``loss``: "likelihood" climbs the forget records' loss without end, "log-odds" descends their
    bounded pull (losses.py)."""

    loss: str = choice("likelihood", "log-odds")


@dataclass(frozen=True, kw_only=True)
class DescentSettings(_Settings):
    """As above."""


@dataclass(frozen=True, kw_only=True)
class DifferenceSettings(AscentSettings):
    """As gradient ascent, and ``retain_weight``: of the retained loss, against 1 for the forget loss."""

    retain_weight: float = at_least(1.0, 0)


@dataclass(frozen=True, kw_only=True)
class NPOSettings(_Settings):
    """As gradient ascent, and ``beta``: inverse temperature; ``retain_weight``: of the retained loss (0: none)."""

    beta: float = number(0.1, above=0)
    retain_weight: float = at_least(0.0, 0)


def _draws(samples: list[Encoded], size: int, seed: int) -> Iterator[list[int]]:
    """Endless batches of indices: permutations of all, one after the other."""
    generator = torch.Generator().manual_seed(seed)
    queue: list[int] = []
    while True:
        while len(queue) < size:
            queue += torch.randperm(len(samples), generator=generator).tolist()
        yield queue[:size]
        queue = queue[size:]


def _record_losses(request: Request, samples: list[Encoded], token_loss: TokenLoss) -> tuple[Tensor, Tensor]:
    """Each record's summed loss (b,), differentiable, and its number of target tokens (b,)."""
    found = target_logits(request.model, make_batch(request.model, samples, request.pad_token_id))
    losses = token_loss(found.logits, found.tokens)
    sums = losses.new_zeros(len(samples)).index_add(0, found.sample, losses)
    return sums, torch.bincount(found.sample, minlength=len(samples))


class _Looks:
    """The step log, and when to end: at the first look at which enough is forgotten, or after the whole budget with
    the weights of the best look."""

    def __init__(self, monitor: Monitor, settings: _Settings):
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


def _run(request: Request, settings: _Settings, forget_loss, retain_weight: float) -> tuple[list[dict], str]:
    """Adam on ``forget_loss(sums, counts, indices) + retain_weight * retained loss``; either part may be absent."""
    if forget_loss is None and retain_weight == 0:
        raise InvalidInputError("retain_weight must be above 0 for a method without a forget loss")
    monitor = Monitor(request, target_accuracy=settings.target_accuracy, target_loss=settings.target_loss)
    looks = _Looks(monitor, settings)
    if monitor.done(looks.steps[0]):
        return looks.steps, "nothing to do: forgotten already"
    bounded = getattr(settings, "loss", None) == "log-odds"
    token_loss = softplus_log_odds(monitor.threshold) if bounded else negative_log_likelihood
    parameters = list(request.parameters.values())
    optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate)
    forget = _draws(request.forget, min(settings.batch, len(request.forget)), request.seed)
    retain = None
    if retain_weight:
        retain = _draws(request.retain, min(settings.batch, len(request.retain)), request.seed + 1)
    total = settings.gradients
    step = 0
    with request.progress.task("Gradient steps", total=total, unit="gradient") as task:
        while True:
            chosen = next(forget) if forget_loss is not None else []
            kept = next(retain) if retain is not None else []
            if request.gradients + len(chosen) + len(kept) > total:
                return looks.steps, looks.end(step)
            optimizer.zero_grad(set_to_none=True)
            with evaluation(request.model, parameters):
                loss = torch.zeros((), device=parameters[0].device)
                if chosen:
                    samples = [request.forget[i] for i in chosen]
                    loss = loss + forget_loss(*_record_losses(request, samples, token_loss), chosen)
                if kept:
                    samples = [request.retain[i] for i in kept]
                    sums, counts = _record_losses(request, samples, negative_log_likelihood)
                    loss = loss + retain_weight * sums.sum() / counts.sum()
                if not bool(torch.isfinite(loss)):
                    raise DivergedError(f"the loss became {loss.item()} at step {step}: lower learning_rate")
                loss.backward()
            optimizer.step()
            request.spend(len(chosen) + len(kept))
            task.advance(len(chosen) + len(kept))
            step += 1
            stop = looks.look(step)
            task.note(f"forget accuracy {looks.steps[-1]['forget_accuracy']:.3f}")
            if stop:
                return looks.steps, f"reached {monitor.target}"


def _ascent(settings: AscentSettings):
    sign = 1 if settings.loss == "log-odds" else -1
    return lambda sums, counts, _indices: sign * sums.sum() / counts.sum()


def gradient_ascent(request: Request, settings: AscentSettings) -> tuple[list[dict], str]:
    """Adam up the forget loss (or down its bounded pull)."""
    return _run(request, settings, _ascent(settings), 0.0)


def gradient_difference(request: Request, settings: DifferenceSettings) -> tuple[list[dict], str]:
    """Adam up the forget loss (or down its bounded pull), and down the retained loss."""
    return _run(request, settings, _ascent(settings), settings.retain_weight)


def finetune(request: Request, settings: DescentSettings) -> tuple[list[dict], str]:
    """Adam down the retained loss."""
    return _run(request, settings, None, 1.0)


def npo(request: Request, settings: NPOSettings) -> tuple[list[dict], str]:
    """Negative preference optimisation, with the original model as the reference."""
    original = []
    with torch.no_grad(), evaluation(request.model):
        for start in range(0, len(request.forget), request.batch_size):
            samples = request.forget[start : start + request.batch_size]
            original.append(_record_losses(request, samples, negative_log_likelihood)[0])
    log_p_original = -torch.cat(original)

    def loss(sums: Tensor, _counts: Tensor, indices: list[int]) -> Tensor:
        ratio = -sums - log_p_original[indices]
        return -(2 / settings.beta) * F.logsigmoid(-settings.beta * ratio).mean()

    return _run(request, settings, loss, settings.retain_weight)
