"""SOUL: unlearning by Sophia, an optimiser with diagonal curvature (Jia et al. 2024, 2404.18239; Liu et al. 2023).

    m <- b1 m + (1 - b1) g                               once a step; g: gradient of the unlearning objective
    h <- b2 h + (1 - b2) c                               every few steps; c: estimate of the diagonal curvature
    theta <- theta - rate * clip(m / max(gamma h, e), 1)

c is that of Gauss-Newton-Bartlett: B gbar^2, where gbar is the gradient of the mean loss over the batch's B target
tokens with labels drawn from the model; its expectation is the diagonal of the Gauss-Newton matrix. It is taken of the
forget and of the retained batch apart, each of its own loss, and added with the objective's weights. The square of the
objective's own gradient would be no curvature: climbing and descending cancel in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastunlearn.data.encode import Encoded
from fastunlearn.operators.model_state import evaluation
from fastunlearn.operators.targets import sample_labels
from fastunlearn.unlearn.descent import DescentSettings, Objective, descend, mean_loss
from fastunlearn.unlearn.method import Method
from fastunlearn.unlearn.request import Request
from fastunlearn.unlearn.search import Logarithmic, OneOf
from fastunlearn.unlearn.settings import at_least, choice, number, whole

from .npo import npo_objective

__all__ = ["METHODS", "SOULSettings"]

TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class SOULSettings(DescentSettings):
    """As DescentSettings, and ``objective``: gradient difference or NPO with retained data; ``retain_weight``,
    ``beta``: theirs; ``momentum`` b1, ``curvature_memory`` b2, ``curvature_every`` so many steps, ``gamma``: above."""

    objective: str = choice("gradient-difference", "npo")
    retain_weight: float = number(1.0, above=0)
    beta: float = number(0.1, above=0)
    momentum: float = at_least(0.9, 0, most=0.999)
    curvature_memory: float = at_least(0.95, 0, most=0.9999)
    curvature_every: int = whole(5, least=1)
    gamma: float = number(0.04, above=0)


class Sophia:
    """The update above; a curvature estimate costs one gradient of each record of the batch."""

    def __init__(self, request: Request, settings: SOULSettings):
        self._request, self._settings = request, settings
        self._mean = [torch.zeros_like(p) for p in request.parameters.values()]
        self._curvature = [torch.zeros_like(p) for p in request.parameters.values()]
        self._loss = mean_loss(request)

    def _due(self, step: int) -> bool:
        return step % self._settings.curvature_every == 0

    def extra(self, step: int, records: int) -> int:
        return records if self._due(step) else 0

    def move(self, step: int, forget: list[Encoded], retain: list[Encoded]) -> None:
        settings, chosen = self._settings, list(self._request.parameters.values())
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in chosen]
        if self._due(step):
            seed = self._request.seed * 1_000_003 + step
            estimates = self._bartlett(forget, seed), self._bartlett(retain, seed + 500_009)
            for h, f, r in zip(self._curvature, *estimates, strict=True):
                h.mul_(settings.curvature_memory).add_(
                    f + settings.retain_weight * r, alpha=1 - settings.curvature_memory
                )
        with torch.no_grad():
            for p, m, h, g in zip(chosen, self._mean, self._curvature, gradients, strict=True):
                m.mul_(settings.momentum).add_(g, alpha=1 - settings.momentum)
                p.sub_(settings.learning_rate * (m / (settings.gamma * h).clamp_min(TINY)).clamp(-1, 1))

    def _bartlett(self, samples: list[Encoded], seed: int) -> list[Tensor]:
        request, chosen = self._request, list(self._request.parameters.values())
        with evaluation(request.model, chosen):
            drawn = sample_labels(
                request.model, samples, pad_token_id=request.pad_token_id, batch_size=len(samples), seed=seed
            )
            found = torch.autograd.grad(self._loss(drawn, []), chosen, allow_unused=True)
        request.spend(len(samples))
        tokens = sum(one.targets for one in drawn)
        return [torch.zeros_like(p) if g is None else tokens * g.square() for p, g in zip(chosen, found, strict=True)]


def run(request: Request, settings: SOULSettings) -> tuple[list[dict], str]:
    """Sophia down gradient difference or NPO."""
    if settings.objective == "npo":
        objective = npo_objective(request, settings.beta, settings.retain_weight)
    else:
        objective = Objective(mean_loss(request, sign=-1), mean_loss(request), settings.retain_weight)
    return descend(request, settings, objective, update=Sophia(request, settings))


METHODS = (
    Method("soul", "SOUL (Sophia)", "gradient difference or NPO by Sophia: clipped steps, diagonal curvature",
           True, SOULSettings, run,
           search={"learning_rate": Logarithmic(1e-5, 1e-3), "gamma": OneOf((0.01, 0.04, 0.2, 1.0)),
                   "objective": OneOf(("gradient-difference", "npo")), "beta": OneOf((0.1, 0.5)),
                   "retain_weight": OneOf((0.5, 1.0, 2.0, 4.0, 8.0))}),
)  # fmt: skip
