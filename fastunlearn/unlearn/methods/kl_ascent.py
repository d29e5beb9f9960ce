"""Gradient ascent held by the original model's predictions (the "KL minimization" of Maini et al. 2024).

    -L(forget) + weight * KL(original || model) on retained records, both means over target tokens

The original is the weights at the start, kept once and run again on every batch of retained records.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from fastunlearn.data.encode import Encoded
from fastunlearn.operators.targets import make_batch, target_logits
from fastunlearn.unlearn.descent import DescentSettings, Objective, Part, descend, mean_loss
from fastunlearn.unlearn.method import Method
from fastunlearn.unlearn.request import Request
from fastunlearn.unlearn.search import Logarithmic, OneOf
from fastunlearn.unlearn.settings import at_least
from fastunlearn.unlearn.snapshot import Snapshot

__all__ = ["METHODS", "KLAscentSettings"]


@dataclass(frozen=True, kw_only=True)
class KLAscentSettings(DescentSettings):
    """As DescentSettings, and ``retain_weight``: of the KL on retained records, against 1 for the forget loss."""

    retain_weight: float = at_least(1.0, 0)


def _divergence(request: Request) -> Part:
    """Mean of KL(original || model) over the batch's target tokens, in nats; original: the weights of now."""
    model, weights = request.model, Snapshot(request.parameters).values

    def original(**inputs):
        return functional_call(model, weights, args=(), kwargs=inputs)

    def part(samples: list[Encoded], _places: list[int]) -> Tensor:
        batch = make_batch(model, samples, request.pad_token_id)
        with torch.no_grad():
            then = target_logits(model, batch, original).logits.log_softmax(1)
        now = target_logits(model, batch).logits.log_softmax(1)
        return (then.exp() * (then - now)).sum(1).mean()

    return part


def run(request: Request, settings: KLAscentSettings) -> tuple[list[dict], str]:
    """Adam up the forget loss, held to the original's predictions on the retained records."""
    objective = Objective(mean_loss(request, sign=-1), _divergence(request), settings.retain_weight)
    return descend(request, settings, objective)


METHODS = (
    Method("kl-ascent", "KL-regularised ascent", "climbs the forget loss, held to the original on retained records",
           True, KLAscentSettings, run, first_order=True,
           search={"learning_rate": Logarithmic(1e-5, 1e-3), "retain_weight": OneOf((0.5, 1.0, 2.0, 4.0, 8.0, 16.0))}),
)  # fmt: skip
