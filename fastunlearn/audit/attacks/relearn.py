"""Relearning: train on a few forgotten records and see whether the others come back.

Source: Hu et al. 2025, "Jogging the Memory of Unlearned Models" (arXiv 2406.13356). A model that never knew the records
cannot regain those that it is not shown, beyond what the shown ones tell of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from fastunlearn.audit.attacks.outcome import Outcome
from fastunlearn.audit.attacks.target import Target, private_copy
from fastunlearn.errors import InvalidInputError
from fastunlearn.training import train

__all__ = ["RelearnSettings", "relearn"]


@dataclass(frozen=True)
class RelearnSettings:
    """``share`` of the forgotten records, rounded up, is trained on for ``steps`` steps of AdamW, once with each of
    ``learning_rates``; the attacker keeps the one that brings back most. ``batch_size``: records a step, at most."""

    share: float = 0.05
    steps: int = 30
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    batch_size: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InvalidInputError(f"share={self.share} must lie between 0 and 1, such as 0.05")
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise InvalidInputError("learning_rates: give at least one, and only such as are above 0")
        if self.steps < 1 or self.batch_size < 1:
            raise InvalidInputError("steps and batch_size must be at least 1")


def relearn(target: Target, settings: RelearnSettings) -> Outcome:
    """Train copies on the shown records; measure the forgotten records that were *not* shown."""
    forget = list(target.sets["forget"])
    count = math.ceil(settings.share * len(forget))
    if count >= len(forget):
        raise InvalidInputError(
            f"share={settings.share} shows all {len(forget)} forgotten records, so none is left to measure; lower it"
        )
    order = torch.randperm(len(forget), generator=torch.Generator().manual_seed(target.seed)).tolist()
    shown, others = [forget[i] for i in order[:count]], [forget[i] for i in sorted(order[count:])]
    tried, broken = {}, []
    for rate in settings.learning_rates:
        model = private_copy(target.model)
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        try:
            train(
                model, shown, steps=settings.steps, batch_size=min(settings.batch_size, count), weight_decay=0.0,
                learning_rate=rate, seed=target.seed, pad_token_id=target.pad_token_id,
            )  # fmt: skip
            tried[rate] = target.before_and_after(model, others)
        except InvalidInputError as error:  # that rate left the numbers that can be computed with
            broken.append(rate)
            if len(broken) == len(settings.learning_rates):
                raise InvalidInputError(f"learning_rates: none can be trained with; lower them ({error})") from error
    best = max(tried, key=lambda rate: tried[rate]["accuracy"][1].mean())
    return Outcome(tried[best], {"shown": count, "learning_rate": best, "diverged": broken})


def missing(target: Target) -> str | None:
    """Why the attack cannot be run."""
    return "two forgotten records at least" if len(target.sets["forget"]) < 2 else None
