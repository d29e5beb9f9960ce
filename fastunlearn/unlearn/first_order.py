"""First-order methods, for comparison: Adam on a loss of forget (and retained) batches, with an early stop.

    gradient-ascent       maximise the forget loss                                         (Jang et al. 2023)
    gradient-difference   maximise the forget loss, minimise the retained one              (Liu et al. 2022)
    npo                   -(2/beta) log sigmoid(-beta log(p / p_original)) per record, alone or with the retained
                          loss added                                                       (Zhang et al. 2024)
    finetune              minimise the retained loss and hope that the rest fades

A gradient evaluation is one record's gradient; every method counts them alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fastunlearn.data.encode import Encoded
from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.losses import negative_log_likelihood
from fastunlearn.operators.model_state import evaluation
from fastunlearn.operators.targets import make_batch, target_logits

from .monitor import Monitor
from .request import Request
from .settings import at_least, number, optional, whole

__all__ = ["AscentSettings", "DescentSettings", "DifferenceSettings", "NPOSettings", "finetune", "gradient_ascent",
           "gradient_difference", "npo"]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """``learning_rate``: of Adam. ``gradients``: budget of per-record gradient evaluations. ``batch``: forget
    records per step, and as many retained ones where the method uses them. ``check_every``: steps between two
    looks at the forget accuracy. ``target_accuracy``, ``target_loss``: see Monitor."""

    learning_rate: float = number(1e-4, above=0)
    gradients: int = whole(4000, least=1)
    batch: int = whole(16, least=1)
    check_every: int = whole(1, least=1)
    target_accuracy: float | None = optional(at_least(None, 0, most=1))
    target_loss: float | None = optional(at_least(None, 0))


@dataclass(frozen=True, kw_only=True)
class AscentSettings(_Settings):
    __doc__ = _Settings.__doc__


@dataclass(frozen=True, kw_only=True)
class DescentSettings(_Settings):
    __doc__ = _Settings.__doc__


@dataclass(frozen=True, kw_only=True)
class DifferenceSettings(_Settings):
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


def _record_losses(request: Request, samples: list[Encoded]) -> tuple[Tensor, Tensor]:
    """Each record's summed loss (b,), differentiable, and its number of target tokens (b,)."""
    found = target_logits(request.model, make_batch(request.model, samples, request.pad_token_id))
    losses = negative_log_likelihood(found.logits, found.tokens)
    sums = losses.new_zeros(len(samples)).index_add(0, found.sample, losses)
    return sums, torch.bincount(found.sample, minlength=len(samples))


def _run(request: Request, settings: _Settings, forget_loss, retain_weight: float) -> tuple[list[dict], str]:
    """Adam on ``forget_loss(sums, counts, indices) + retain_weight * retained loss``; either part may be absent."""
    if forget_loss is None and retain_weight == 0:
        raise InvalidInputError("retain_weight must be above 0 for a method without a forget loss")
    monitor = Monitor(request, target_accuracy=settings.target_accuracy, target_loss=settings.target_loss)
    steps = [monitor.look(0, gradients=request.gradients)]
    if monitor.done(steps[0]):
        return steps, "nothing to do: forgotten already"
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
                if steps[-1].get("gradients") != request.gradients:
                    steps.append(monitor.look(step, gradients=request.gradients))
                return steps, f"the budget of {total} gradients is spent"
            optimizer.zero_grad(set_to_none=True)
            with evaluation(request.model, parameters):
                loss = torch.zeros((), device=parameters[0].device)
                if chosen:
                    loss = loss + forget_loss(*_record_losses(request, [request.forget[i] for i in chosen]), chosen)
                if kept:
                    sums, counts = _record_losses(request, [request.retain[i] for i in kept])
                    loss = loss + retain_weight * sums.sum() / counts.sum()
                if not bool(torch.isfinite(loss)):
                    raise InvalidInputError(f"the loss became {loss.item()} at step {step}: lower learning_rate")
                loss.backward()
            optimizer.step()
            request.spend(len(chosen) + len(kept))
            task.advance(len(chosen) + len(kept))
            step += 1
            if step % settings.check_every == 0:
                steps.append(monitor.look(step, gradients=request.gradients))
                if monitor.done(steps[-1]):
                    return steps, f"reached {monitor.target}"


def _ascent(sums: Tensor, counts: Tensor, _indices: list[int]) -> Tensor:
    return -sums.sum() / counts.sum()


def gradient_ascent(request: Request, settings: AscentSettings) -> tuple[list[dict], str]:
    """Adam up the forget loss."""
    return _run(request, settings, _ascent, 0.0)


def gradient_difference(request: Request, settings: DifferenceSettings) -> tuple[list[dict], str]:
    """Adam up the forget loss and down the retained one."""
    return _run(request, settings, _ascent, settings.retain_weight)


def finetune(request: Request, settings: DescentSettings) -> tuple[list[dict], str]:
    """Adam down the retained loss."""
    return _run(request, settings, None, 1.0)


def npo(request: Request, settings: NPOSettings) -> tuple[list[dict], str]:
    """Negative preference optimisation, with the original model as the reference."""
    original = []
    with torch.no_grad(), evaluation(request.model):
        for start in range(0, len(request.forget), request.batch_size):
            original.append(_record_losses(request, request.forget[start : start + request.batch_size])[0])
    log_p_original = -torch.cat(original)

    def loss(sums: Tensor, _counts: Tensor, indices: list[int]) -> Tensor:
        ratio = -sums - log_p_original[indices]
        return -(2 / settings.beta) * F.logsigmoid(-settings.beta * ratio).mean()

    return _run(request, settings, loss, settings.retain_weight)
