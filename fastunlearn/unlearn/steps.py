"""The loop of the methods that take a few large steps shaped by curvature, in sample space (arXiv 2403.10557).

The *direction* is ``-F^-1 J^T c``: F is the damped Fisher of what must stay, J are the gradients of a pull on the
forget records (operators/losses.py), c says how hard each record is pulled. The *update* is that step at a bounded
norm, taken from where the last one ended, with fresh gradients and (with retained data) a fresh Fisher. The *guard*
(guard.py) shortens it. With retained data the cost is two weighted backward passes at most; the captured factors serve
both the Gram and the step where memory allows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastunlearn.operators.losses import TokenLoss, log_likelihood, ranked_log_odds, softplus_log_odds

from .curvature import Curvature, RetainCurvature, Vector
from .guard import guarded_move
from .kept_curvature import KeptCurvature
from .monitor import Monitor
from .request import Request
from .resume import keep_state, taken_up

__all__ = ["descend_by_steps", "make_curvature", "make_monitor", "make_pull", "norm", "pull_weights", "scaled"]

DRIFT_HALVINGS = 20  # a first step may be far too long for the model


def make_monitor(request: Request, settings) -> Monitor:
    """The monitor with the targets of the settings."""
    if (
        getattr(settings, "fade", "mean") != "mean" and settings.threshold is None and not request.held_out
        and settings.target_accuracy is not None  # else the monitor says that held-out records are missing
    ):  # fmt: skip
        request.notes.append(
            f'fade="{settings.fade}" has no held-out records to take ranks from, so the pull fades as with fade="mean";'
            " give records that the model has never seen."
        )
    needs = getattr(settings, "enough", "both")
    return Monitor(
        request, target_accuracy=settings.target_accuracy, target_loss=settings.target_loss, needs=needs
    )  # fmt: skip


def norm(step: Vector) -> float:
    """L2 norm over all tensors together."""
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in step.values()))


def scaled(step: Vector, factor: float) -> Vector:
    return {name: tensor * factor for name, tensor in step.items()}


def pull_weights(curvature: Curvature, how: str) -> Tensor:
    """c (n,): 1 for each record, or the Gauss-Newton weights that would bring every loss to zero at once."""
    if how == "sum":
        return torch.ones(curvature.records, dtype=torch.float64)
    losses, metric = curvature.forget_losses, curvature.forget_metric()
    ridge = 1e-2 * metric.diagonal().mean()
    return torch.linalg.solve(metric + ridge * torch.eye(len(losses), dtype=metric.dtype, device=metric.device), losses)


def _limited(step: Vector, limit: float, how: str) -> tuple[Vector, float]:
    """The step at its norm limit ("sum": exactly that long; "gauss-newton": at most), and its own length."""
    length = norm(step)
    if length == 0 or (how != "sum" and length <= limit):
        return step, length
    return scaled(step, limit / length), length


def _longest(steps: list[dict], norm: float, limit: float | None) -> float:
    """How long the next step may be. With a limit of the drift of one step it goes on from the length that the last one
    had in the end, half as long again where that moved the probe by less than half of the limit."""
    if limit is None or len(steps) == 1 or steps[-1]["kl_probe"] is None:
        return norm
    last, before = steps[-1], steps[-2]
    return min(norm, last["step_norm"] * (1.5 if last["kl_probe"] - before["kl_probe"] < limit / 2 else 1.0))


def make_pull(settings, monitor: Monitor) -> TokenLoss:
    """What a step lowers on the forget records: their bounded pull, or with ``loss="likelihood"`` their
    log-likelihood, which has no end. By ranks it is one for the model as it is now."""
    if getattr(settings, "loss", "log-odds") == "likelihood":
        return log_likelihood
    if settings.fade != "mean" and settings.threshold is None and (ranks := monitor.ranks()) is not None:
        own, wanted = ranks
        share = 1.0 if settings.fade == "ranks" else monitor.rank_share
        return ranked_log_odds(own, share * wanted + (1 - share) * monitor.threshold)
    return softplus_log_odds(monitor.threshold if settings.threshold is None else settings.threshold)


def make_curvature(request: Request, settings, kept):
    """What makes F at each step: of retained records as the settings say, or the kept one, down-dated."""
    if kept is not None:
        return KeptCurvature(request, kept)
    return RetainCurvature(
        request, damping=settings.damping, blocks=settings.blocks, kind=settings.kind,
        fisher_samples=settings.fisher_samples, refresh=getattr(settings, "refresh", 1),
    )  # fmt: skip


def descend_by_steps(request: Request, settings, monitor: Monitor, maker) -> tuple[list[dict], str]:
    """At most ``settings.steps`` steps, until enough is forgotten; the step log, and why it ended. ``maker.at(step,
    pull)`` gives the curvature at the present weights."""
    maker.prepare()
    steps = taken_up(request) or [monitor.look(0)]
    if monitor.done(steps[-1]):
        return steps, "nothing to do: forgotten already" if len(steps) == 1 else f"reached {monitor.target}"
    with request.progress.task("Newton steps", total=settings.steps, unit="step") as task:
        task.advance(len(steps) - 1)
        for number_ in range(len(steps), settings.steps + 1):
            # No name here may hold the curvature: the maker frees it before it makes the next one.
            stopped = _newton_step(request, settings, monitor, maker.at(number_, make_pull(settings, monitor)), steps)
            if maker.is_fresh(number_ + 1):
                keep_state(request, steps)
            task.advance()
            task.note(f"forget accuracy {steps[-1]['forget_accuracy']:.3f}")
            if stopped:
                return steps, stopped
    return steps, f"all {settings.steps} steps are taken"


def _newton_step(request: Request, settings, monitor: Monitor, curvature: Curvature, steps: list[dict]) -> str:
    """Takes one step and adds it to the log, or says why none is possible; whether and why to stop after it."""
    c = pull_weights(curvature, settings.pull)
    full = curvature.solve_forget(c)
    limit = getattr(settings, "step_drift", None)
    step, length = _limited(scaled(full, -1.0), _longest(steps, settings.step_norm, limit), settings.pull)
    if length == 0:
        return "no pull is left on the forget records"
    last = steps[-1]["kl_probe"]
    if limit is None or last is None or (settings.kl_budget is not None and last + limit >= settings.kl_budget):
        move, words = guarded_move(monitor, step, settings.kl_budget), f"the KL budget of {settings.kl_budget}"
    else:
        move = guarded_move(monitor, step, last + limit, halvings=DRIFT_HALVINGS)
        words = f"the drift of {limit:g} that a step may have"
    if move.scale == 0:
        return f"{words} allows no further step"
    more = {"step_norm": move.scale * norm(step), "newton_norm": length, "scale": move.scale}
    more |= curvature.leverage()
    steps.append(monitor.look(len(steps), **more, gradients=request.gradients))
    return f"reached {monitor.target}" if monitor.done(steps[-1]) else ""
