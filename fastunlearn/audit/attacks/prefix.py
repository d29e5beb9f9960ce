"""Prefix attack: the first part of the answer is given, and the model writes the rest.

Source: Carlini et al. 2023, "Quantifying Memorization" (arXiv 2202.07646): more context extracts more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fastunlearn.audit.attacks.outcome import Outcome
from fastunlearn.audit.attacks.target import Target
from fastunlearn.audit.generation import generate
from fastunlearn.errors import InvalidInputError

__all__ = ["PrefixSettings", "missing", "prefix"]


@dataclass(frozen=True)
class PrefixSettings:
    """``share`` of the answer's tokens that is given, rounded down, but at least one token and not all."""

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InvalidInputError(f"share={self.share} must lie between 0 and 1, such as 0.5")


def _parts(target: Target) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [part for part in target.answers() if len(part[1]) > 1]


def missing(target: Target) -> str | None:
    """Why the attack cannot be run."""
    return None if _parts(target) else "forgotten records whose answers have two tokens at least"


def prefix(target: Target, settings: PrefixSettings) -> Outcome:
    """Records whose answers have two tokens at least, an end token not counted. Before: the model writes the whole
    answer, greedily; after: the rest of it. ``tokens``: the share of the rest's tokens that stand in their places;
    ``exact``: whether all do."""
    parts = _parts(target)
    given = [max(1, int(settings.share * len(answer))) for _, answer in parts]
    eos = target.tokenizer.eos_token_id

    def written(prompts: list[torch.Tensor], lengths: list[int]) -> list[torch.Tensor]:
        found = generate(target.model, prompts, lengths, eos_token_id=eos, batch_size=target.batch_size)
        return [one[0] for one in found]

    whole = written([prompt for prompt, _ in parts], [len(answer) for _, answer in parts])
    rest = written(
        [torch.cat([prompt, answer[:k]]) for (prompt, answer), k in zip(parts, given, strict=True)],
        [len(answer) - k for (_, answer), k in zip(parts, given, strict=True)],
    )
    truth = [answer[k:] for (_, answer), k in zip(parts, given, strict=True)]
    before = np.array([_matches(one[k:], true) for one, k, true in zip(whole, given, truth, strict=True)])
    after = np.array([_matches(one, true) for one, true in zip(rest, truth, strict=True)])
    exact = tuple((values == 1.0).astype(np.float64) for values in (before, after))
    return Outcome({"tokens": (before, after), "exact": exact}, {"share": settings.share})


def _matches(written: torch.Tensor, true: torch.Tensor) -> float:
    """The share of ``true`` that ``written`` has in the same places."""
    length = min(len(written), len(true))
    return float((written[:length] == true[:length]).sum()) / len(true)
