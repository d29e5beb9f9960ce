"""Newton removal ``theta + H^-1 sum g`` (arXiv 2403.10557): one step, the same taken again, or without retained data.

H is the curvature of the retained loss, a sum over its records, g the gradients of the forget records' own loss.

    newton         one step, H of retained records
    newton-steps   re-linearised: the same again from where it ended, with a fresh H, until enough is forgotten
    win-u          one step, H of all training records, kept at training time, less that of the forget records
                   (Woodbury; the forget records' part is their Gauss-Newton matrix for a kept Fisher of drawn labels,
                   and of their own gradients for an empirical one)                                   (2604.13438)

A Fisher of drawn labels holds one draw, of which the Gauss-Newton matrix is the mean. Of records that a model is sure
of a draw is mostly smaller than the mean, and the down-date is then refused: keep an empirical Fisher for such.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fastunlearn.operators.losses import negative_log_likelihood
from fastunlearn.unlearn.curvature import Curvature, Vector
from fastunlearn.unlearn.guard import Move, guarded_move
from fastunlearn.unlearn.method import Method
from fastunlearn.unlearn.monitor import Monitor
from fastunlearn.unlearn.request import Request
from fastunlearn.unlearn.search import Logarithmic, OneOf
from fastunlearn.unlearn.settings import at_least, choice, number, optional, whole
from fastunlearn.unlearn.steps import make_curvature, make_monitor, norm, scaled

__all__ = ["METHODS", "NewtonSettings", "NewtonStepsSettings", "WinUSettings", "newton_update"]


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


@dataclass(frozen=True, kw_only=True)
class NewtonStepsSettings(NewtonSettings):
    """As one-shot Newton, and ``steps``: at most so many. The gradients grow as the forget loss does, so the damping
    is larger."""

    steps: int = whole(8, least=1)


@dataclass(frozen=True, kw_only=True)
class WinUSettings:
    """As one-shot Newton; damping and kind are those of the kept Fisher."""

    kl_budget: float | None = optional(number(0.5, above=0))
    target_accuracy: float | None = optional(at_least(None, 0, most=1))
    target_loss: float | None = optional(at_least(None, 0))


def newton_update(solved: Vector, retained: int) -> Vector:
    """The removal update ``+ H^-1 sum g``, from ``F^-1 sum g`` with F the *mean* of the retained curvature."""
    return scaled(solved, 1.0 / retained)


def _take(monitor: Monitor, curvature: Curvature, retained: int, budget: float | None, steps: list[dict]) -> Move:
    """The step under the guard's line search, and its entry in the log."""
    ones = torch.ones(len(monitor.request.forget), dtype=torch.float64)
    step = newton_update(curvature.solve_forget(ones), retained)
    move = guarded_move(monitor, step, budget)
    more = {"step_norm": move.scale * norm(step), "newton_norm": norm(step), "scale": move.scale}
    more |= curvature.leverage()
    steps.append(monitor.look(len(steps), **more, gradients=monitor.request.gradients))
    return move


def newton(request: Request, settings: NewtonSettings, kept=None) -> tuple[list[dict], str]:
    """The one-shot removal."""
    monitor = make_monitor(request, settings)
    steps = [monitor.look(0)]
    curvature = make_curvature(request, settings, kept).at(1, negative_log_likelihood)
    retained = kept.samples - len(request.forget) if kept is not None else len(request.retain)
    move = _take(monitor, curvature, retained, settings.kl_budget, steps)
    if move.scale == 0:
        return steps, f"the KL budget of {settings.kl_budget:g} allows no part of the step"
    shortened = "" if move.scale == 1 else f", shortened to {move.scale:.3f} of its length"
    return steps, f"the one step is taken{shortened}"


def newton_steps(request: Request, settings: NewtonStepsSettings) -> tuple[list[dict], str]:
    """The removal step, again and again, each with the curvature and gradients of where the last one ended."""
    monitor = make_monitor(request, settings)
    steps = [monitor.look(0)]
    if monitor.done(steps[0]):
        return steps, "nothing to do: forgotten already"
    maker = make_curvature(request, settings, None)
    with request.progress.task("Newton steps", total=settings.steps, unit="step") as task:
        for count in range(1, settings.steps + 1):
            # No name here may hold the curvature: the maker frees it before it makes the next one.
            move = _take(
                monitor, maker.at(count, negative_log_likelihood), len(request.retain), settings.kl_budget, steps
            )
            task.advance()
            if move.scale == 0:
                return steps, f"the KL budget of {settings.kl_budget:g} allows no further step"
            if monitor.done(steps[-1]):
                return steps, f"reached {monitor.target}"
    return steps, f"all {settings.steps} steps are taken"


_SEARCH = {"damping": Logarithmic(1e-5, 1e-1)}
METHODS = (
    Method("newton", "Newton, one shot", "the paper's single Newton removal step",
           True, NewtonSettings, newton, search=_SEARCH | {"kind": OneOf(("empirical", "sampled"))}),
    Method("newton-steps", "Newton, re-linearised", "the same step again from where it ended, until forgotten",
           True, NewtonStepsSettings, newton_steps, search=_SEARCH),
    Method("win-u", "WIN-U", "one Newton removal step by a kept Fisher, less the forget records' part",
           False, WinUSettings, newton, uses_kept=True),
)  # fmt: skip
