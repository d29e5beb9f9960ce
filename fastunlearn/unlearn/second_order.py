"""Fisher Removal, Fisher Forgetting and one-shot Newton (arXiv 2403.10557), in sample space.

The step is ``theta <- theta - F^-1 J^T c``: F is the damped Fisher of what must stay, J are the gradients of a
bounded pull on the forget records (losses.py), c says how hard each record is pulled. Every step is taken from
where the last one ended, with fresh gradients and (with retained data) a fresh Fisher, has a bounded norm, and
passes the guard (guard.py). With retained data the cost is two weighted backward passes at most; the captured
factors serve both the Gram and the step where memory allows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastunlearn.operators.losses import TokenLoss, negative_log_likelihood, softplus_log_odds

from .curvature import Curvature, KeptCurvature, RetainCurvature, Vector
from .guard import guarded_move
from .monitor import Monitor
from .request import Request
from .resume import keep_state, taken_up
from .settings import at_least, choice, number, optional, whole

__all__ = ["ForgettingSettings", "NewtonSettings", "RemovalSettings", "RetainFreeSettings", "fisher_forgetting",
           "fisher_removal", "newton"]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RemovalSettings:
    """``steps``: at most so many. ``step_norm``: the longest step, L2 over all chosen weights. ``damping``: added
    to the Fisher's diagonal. ``blocks``: between which curvature counts as zero. ``kind``: "empirical" labels
    or "sampled" ones. ``fisher_samples``: retained records per Fisher (None: all). ``refresh``: steps
    for which one Fisher serves (see RetainCurvature). ``pull``: "sum" pulls all
    forget records alike; "gauss-newton" pulls each as far as it needs, its effect on the others counted.
    ``threshold``: log-odds at which a token's pull has faded by half (None: those of a token with the
    target loss, else -3). ``kl_budget``: the drift that the
    guard allows, nats per target token (None: no guard). ``target_accuracy``, ``target_loss``: see Monitor."""

    steps: int = whole(12, least=1)
    step_norm: float = number(0.25, above=0)
    damping: float = number(1e-6, above=0)
    blocks: str = choice("model", "layer", "tensor")
    kind: str = choice("empirical", "sampled")
    fisher_samples: int | None = optional(whole(None, least=1))
    refresh: int = whole(1, least=1)
    pull: str = choice("sum", "gauss-newton")
    threshold: float | None = optional(number(None))
    kl_budget: float | None = optional(number(0.5, above=0))
    target_accuracy: float | None = optional(at_least(None, 0, most=1))
    target_loss: float | None = optional(at_least(None, 0))


@dataclass(frozen=True, kw_only=True)
class RetainFreeSettings:
    """As Fisher Removal; damping and kind are those of the kept Fisher, and its blocks the whole model."""

    steps: int = whole(12, least=1)
    step_norm: float = number(0.25, above=0)
    pull: str = choice("sum", "gauss-newton")
    threshold: float | None = optional(number(None))
    kl_budget: float | None = optional(number(0.5, above=0))
    target_accuracy: float | None = optional(at_least(None, 0, most=1))
    target_loss: float | None = optional(at_least(None, 0))


@dataclass(frozen=True, kw_only=True)
class ForgettingSettings(RemovalSettings):
    """As Fisher Removal, and: ``noise``: standard deviation of n in ``F^-1/4 n``; ``noise_floor``: eigenvalues of F
    below it count as it, so that the noise in a direction without curvature is at most noise / floor^(1/4)."""

    noise: float = at_least(2e-4, 0)
    noise_floor: float = number(1e-3, above=0)


@dataclass(frozen=True, kw_only=True)
class NewtonSettings:
    """The one step ``theta + H^-1 sum g``, H the sum of the retained records' curvature, g the gradients of the
    forget records' own loss. Settings as for Fisher Removal; there is no step norm."""

    damping: float = number(1e-3, above=0)
    blocks: str = choice("model", "layer", "tensor")
    kind: str = choice("empirical", "sampled")
    fisher_samples: int | None = optional(whole(None, least=1))
    kl_budget: float | None = optional(number(0.5, above=0))
    target_accuracy: float | None = optional(at_least(None, 0, most=1))
    target_loss: float | None = optional(at_least(None, 0))


def norm(step: Vector) -> float:
    """L2 norm over all tensors together."""
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in step.values()))


def _scaled(step: Vector, factor: float) -> Vector:
    return {name: tensor * factor for name, tensor in step.items()}


def pull_weights(curvature: Curvature, how: str, losses: Tensor) -> Tensor:
    """c (n,): 1 for each record, or the Gauss-Newton weights that would bring every loss to zero at once."""
    if how == "sum":
        return torch.ones_like(losses)
    metric = curvature.forget_metric()
    ridge = 1e-2 * metric.diagonal().mean()
    return torch.linalg.solve(metric + ridge * torch.eye(len(losses), dtype=metric.dtype, device=metric.device), losses)


def _limited(step: Vector, limit: float, how: str) -> tuple[Vector, float]:
    """The step at its norm limit ("sum": exactly that long; "gauss-newton": at most), and its own length."""
    length = norm(step)
    if length == 0 or (how != "sum" and length <= limit):
        return step, length
    return _scaled(step, limit / length), length


def _pull(settings, monitor: Monitor) -> TokenLoss:
    return softplus_log_odds(monitor.threshold if settings.threshold is None else settings.threshold)


def _curvature(request: Request, settings, kept):
    if kept is not None:
        return KeptCurvature(request, kept)
    return RetainCurvature(
        request, damping=settings.damping, blocks=settings.blocks, kind=settings.kind,
        fisher_samples=settings.fisher_samples, refresh=getattr(settings, "refresh", 1),
    )  # fmt: skip


def _descend(request: Request, settings: RemovalSettings, monitor: Monitor, maker) -> tuple[list[dict], str]:
    maker.prepare()
    steps = taken_up(request) or [monitor.look(0)]
    if monitor.done(steps[-1]):
        return steps, "nothing to do: forgotten already" if len(steps) == 1 else f"reached {monitor.target}"
    pull = _pull(settings, monitor)
    with request.progress.task("Newton steps", total=settings.steps, unit="step") as task:
        task.advance(len(steps) - 1)
        for number_ in range(len(steps), settings.steps + 1):
            stopped = _newton_step(request, settings, monitor, maker.at(number_, pull), steps)
            if maker.is_fresh(number_ + 1):
                keep_state(request, steps)
            task.advance()
            task.note(f"forget accuracy {steps[-1]['forget_accuracy']:.3f}")
            if stopped:
                return steps, stopped
    return steps, f"all {settings.steps} steps are taken"


def _newton_step(request: Request, settings, monitor: Monitor, curvature: Curvature, steps: list[dict]) -> str:
    """Takes one step and adds it to the log, or says why none is possible; whether and why to stop after it."""
    c = pull_weights(curvature, settings.pull, curvature.forget_losses)
    full = curvature.solve_forget(c)
    step, length = _limited(_scaled(full, -1.0), settings.step_norm, settings.pull)
    if length == 0:
        return "no pull is left on the forget records"
    move = guarded_move(monitor, step, settings.kl_budget)
    if move.scale == 0:
        return f"the KL budget of {settings.kl_budget:g} allows no further step"
    more = {"step_norm": move.scale * norm(step), "newton_norm": length, "scale": move.scale}
    steps.append(monitor.look(len(steps), **more, gradients=request.gradients))
    return f"reached {monitor.target}" if monitor.done(steps[-1]) else ""


def fisher_removal(request: Request, settings: RemovalSettings, kept=None) -> tuple[list[dict], str]:
    """Re-linearised Newton steps away from the forget records."""
    monitor = Monitor(request, target_accuracy=settings.target_accuracy, target_loss=settings.target_loss)
    return _descend(request, settings, monitor, _curvature(request, settings, kept))


def _noise(request: Request, step: int) -> Vector:
    generator = torch.Generator().manual_seed(request.seed * 1_000_003 + 500_009 + step)
    return {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float32).to(p.device)
        for name, p in request.parameters.items()
    }


def fisher_forgetting(request: Request, settings: ForgettingSettings, kept=None) -> tuple[list[dict], str]:
    """Fisher Removal, then ``noise * F^-1/4 n`` with n standard normal and F at the weights reached."""
    monitor = Monitor(request, target_accuracy=settings.target_accuracy, target_loss=settings.target_loss)
    maker = _curvature(request, settings, kept)
    steps, stopped = _descend(request, settings, monitor, maker)
    if settings.noise == 0:
        return steps, stopped
    curvature = maker.at(len(steps), _pull(settings, monitor))
    plain = _noise(request, len(steps))
    shaped = _scaled(curvature.power(-0.25, plain, settings.noise_floor), settings.noise)
    move = guarded_move(monitor, shaped, settings.kl_budget, shorten=False)  # noise is not a pull
    floor = max(settings.noise_floor, settings.damping)
    more = {
        "noise_norm": move.scale * norm(shaped), "noise_scale": move.scale, "gradients": request.gradients,
        "noise_gain_at_most": floor**-0.25, "noise_clamped_at": floor,
    }  # fmt: skip
    steps.append(monitor.look(len(steps), **more))
    if move.scale == 0:
        return steps, f"{stopped}; no noise added, the KL budget of {settings.kl_budget:g} allows none"
    return steps, f"{stopped}; curvature-shaped noise added"


def newton_update(solved: Vector, retained: int) -> Vector:
    """The removal update ``+ H^-1 sum g``, from ``F^-1 sum g`` with F the *mean* of the retained curvature."""
    return _scaled(solved, 1.0 / retained)


def newton(request: Request, settings: NewtonSettings, kept=None) -> tuple[list[dict], str]:
    """The paper's one-shot Newton removal, under the guard's line search."""
    monitor = Monitor(request, target_accuracy=settings.target_accuracy, target_loss=settings.target_loss)
    steps = [monitor.look(0)]
    curvature = _curvature(request, settings, kept).at(1, negative_log_likelihood)
    ones = torch.ones(len(request.forget), dtype=torch.float64)
    retained = kept.samples - len(request.forget) if kept is not None else len(request.retain)
    step = newton_update(curvature.solve_forget(ones), retained)
    move = guarded_move(monitor, step, settings.kl_budget)
    more = {"step_norm": move.scale * norm(step), "newton_norm": norm(step), "scale": move.scale}
    steps.append(monitor.look(1, **more, gradients=request.gradients))
    if move.scale == 0:
        return steps, f"the KL budget of {settings.kl_budget:g} allows no part of the step"
    shortened = "" if move.scale == 1 else f", shortened to {move.scale:.3f} of its length"
    return steps, f"the one step is taken{shortened}"
