"""Rehearsals of relearning: steps against what would come back if somebody trained on a few of the forget records.

A rehearsal moves a copy of the weights as an attacker would, by K normalised gradient steps on the records shown,

    theta_j+1 = theta_j - (rho / K) u_j / |u_j|      u = g / (|g| + s), s = rms(g); g: gradient of their loss at theta_j

(u as by Adam's first step, but smooth), and the pull on the other forget records at theta_K is what is lowered. Its
gradient in the weights before the rehearsal goes back through those steps, one Hessian-vector product each (with s and
|u| as constants):

    w_K = grad pull(theta_K)      w_j = w_j+1 - (rho / (K |u_j|)) H_j D_j w_j+1,   D = s / (|g| + s)^2

Without the products (w_0 = w_K, first-order meta-learning) a step can only push the records further down, below what an
unseen record has; with them it parts what is shown from what comes back. Sources: MAML, Finn et al. 2017
(arXiv 1703.03400); meta-learning against relearning, Tamirisa et al. 2024 (arXiv 2408.00761), there of first order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch

from fastunlearn.audit.scores import token_scores
from fastunlearn.data.encode import Encoded
from fastunlearn.operators.first_order import gradient
from fastunlearn.operators.hessian import Hessian
from fastunlearn.operators.losses import TokenLoss
from fastunlearn.operators.model_state import evaluation
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.operators.targets import make_batch

from .curvature import Vector
from .guard import guarded_move
from .monitor import Monitor
from .request import Request
from .snapshot import Snapshot
from .steps import make_pull, norm, scaled

__all__ = ["Rehearsal", "nothing_returns", "rehearse", "rehearsing_gradients", "shown_at"]

SHARE = 0.05  # of the forget records are shown, rounded up
STEPS = 3  # K
HVP_GRADIENTS = 3  # 8/3, rounded up
SERVES = 5  # rehearsals for which one F serves: they move the weights little
LEAST = 5  # rehearsals: fewer do not say that nothing comes back
LONGER, SHORTEST = 1.5, 0.1  # of a step: than the last one, and of rho
HALVINGS = 20


def _count(forget: int) -> int:
    return math.ceil(SHARE * forget)


def rehearsing_gradients(rehearsals: int, forget: int, retain: int) -> int:
    """At most so many gradients do the rehearsals take, where memory keeps F; records shown are not pulled."""
    each = forget + STEPS * (1 + HVP_GRADIENTS) * _count(forget)
    return rehearsals * each + math.ceil(rehearsals / SERVES) * retain


def nothing_returns(accuracies: Sequence[float], forget: int, target: float) -> bool:
    """Whether the last rehearsals left no more than ``target`` on average: those of one turn, in which each of so many
    forget records is shown once, since how much comes back depends on which was; all, where there were fewer."""
    last = accuracies[-max(LEAST, math.ceil(forget / _count(forget))) :]
    return len(accuracies) >= LEAST and sum(last) / len(last) <= target


def shown_at(number: int, forget: int, seed: int) -> list[int]:
    """Which forget records the rehearsal ``number`` (from 1) shows: each in turn, in an order drawn anew each time."""
    count = _count(forget)
    places = range((number - 1) * count, number * count)
    orders: dict[int, list[int]] = {}
    for turn in {place // forget for place in places}:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + 700_001 + turn)
        orders[turn] = torch.randperm(forget, generator=generator).tolist()
    return sorted({orders[place // forget][place % forget] for place in places})


class Rehearsal:
    """One rehearsal on ``shown`` records, ``length`` (rho, L2 over all chosen weights) far; the weights are put back.

    ``accuracy``: on the ``others``, after it. ``direction``: the gradient, in the weights before it, of their summed
    pull after it; ``pull()`` makes it for the weights moved, ``gradients(pull)`` takes its gradients there. Takes about
    2 K + 4 copies of the chosen weights in memory.
    """

    def __init__(
        self, request: Request, shown: Sequence[Encoded], others: Sequence[Encoded], length: float,
        pull: Callable[[], TokenLoss], gradients: Callable[[list[Encoded], TokenLoss], SampleGradients],
    ):  # fmt: skip
        self._request, self._part = request, length / STEPS
        self._batch = make_batch(request.model, shown, request.pad_token_id)
        self._count = len(shown)
        start = Snapshot(request.parameters)
        try:
            way = [self._away() for _ in range(STEPS)]
            scores = token_scores(
                request.model, others, pad_token_id=request.pad_token_id, batch_size=2 * request.batch_size
            )
            self.accuracy: float = scores.accuracy
            ones = torch.ones(len(others), dtype=torch.float64)
            self.direction: Vector = gradients(list(others), pull()).weighted_gradient(ones)
            for here, slope, length_ in reversed(way):
                here.restore()
                self._back(slope, length_)
        finally:
            start.restore()

    def _chosen(self) -> dict[str, Any]:
        return {"params": list(self._request.parameters.values()), "reduction": "sum", "allow_unused": True}

    def _away(self) -> tuple[Snapshot, Vector, float]:
        """Takes one step; the weights before it, D and |u|."""
        request, here = self._request, Snapshot(self._request.parameters)
        with evaluation(request.model, list(request.parameters.values())):
            g = cast(Vector, gradient(request.model, self._batch, form="dict", **self._chosen()))
        request.spend(self._count)
        total = sum(tensor.numel() for tensor in g.values())
        s = max(norm(g) / math.sqrt(total), torch.finfo(torch.float32).tiny)  # no gradient: no step
        u = {name: tensor / (tensor.abs() + s) for name, tensor in g.items()}
        slope = {name: s / (tensor.abs() + s) ** 2 for name, tensor in g.items()}
        length = norm(u)
        if length > 0:
            here.move(u, -self._part / length)
        return here, slope, length

    def _back(self, slope: Vector, length: float) -> None:
        """Takes ``direction`` back through one step, at the weights before it."""
        if length == 0:
            return
        request = self._request
        with evaluation(request.model, list(request.parameters.values())):
            hessian = Hessian(request.model, self._batch, **self._chosen())
            bent = {name: slope[name] * tensor.to(slope[name]) for name, tensor in self.direction.items()}
            turned = hessian @ bent
        request.spend(HVP_GRADIENTS * self._count)
        self.direction = {
            name: tensor - (self._part / length) * turned[name].to(tensor) for name, tensor in self.direction.items()
        }


def rehearse(request: Request, settings, monitor: Monitor, maker, steps: list[dict]) -> str:
    """At most ``settings.rehearsals`` steps down F^-1 times the direction of a rehearsal, added to the log ``steps``,
    until the last ones brought back no more than the target accuracy; why it ended. Records shown are not pulled."""
    n = len(request.forget)
    if n < 2:
        request.notes.append("Rehearsals need two forget records, one to show and one to look at, so none was done.")
        return "no rehearsals with one forget record"
    length, back = settings.rehearsal_norm, []
    with request.progress.task("Rehearsals", total=settings.rehearsals, unit="rehearsal") as task:
        for count in range(1, settings.rehearsals + 1):
            shown = set(shown_at(count, n, request.seed))
            found = Rehearsal(
                request, [request.forget[i] for i in sorted(shown)],
                [one for i, one in enumerate(request.forget) if i not in shown], settings.rehearsal_norm,
                lambda: make_pull(settings, monitor), maker.records.of,
            )  # fmt: skip
            back.append(found.accuracy)
            task.advance()
            task.note(f"accuracy after it {found.accuracy:.3f}")
            if nothing_returns(back, n, monitor.target_accuracy):
                return f"after {count} rehearsals what comes back is no more than unseen records have right"
            # No name here may hold F: the maker frees it before it makes the next one.
            full = maker.fisher(len(steps), anew=(count - 1) % SERVES == 0).solve(found.direction)
            newton = norm(full)
            if newton == 0:
                return f"after {count} rehearsals no pull is left"
            step = scaled(full, -length / newton)
            last = steps[-1]["kl_probe"]
            budget = None if last is None else last + settings.rehearsal_drift
            if budget is not None and settings.kl_budget is not None:
                budget = min(budget, settings.kl_budget)
            move = guarded_move(monitor, step, budget, shorten=False, halvings=HALVINGS)
            if move.scale == 0:
                return f"after {count} rehearsals the guard allows no further step"
            taken = move.scale * length
            steps.append(monitor.look(
                len(steps), step_norm=taken, newton_norm=newton, scale=move.scale, rehearsal=count,
                accuracy_after_rehearsal=found.accuracy, gradients=request.gradients,
            ))  # fmt: skip
            length = min(settings.rehearsal_norm, max(LONGER * taken, SHORTEST * settings.rehearsal_norm))
    return f"all {settings.rehearsals} rehearsals are done"
