"""The model under attack with what the attacker has, and the measures that most attacks share."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from fastunlearn.audit.generation import cut_before_end, prompt_and_answer
from fastunlearn.audit.metrics.memorisation import exact_memorisation, probability
from fastunlearn.audit.scores import token_scores
from fastunlearn.data.encode import Encoded

if TYPE_CHECKING:
    from fastunlearn.data.variants import Variants

__all__ = ["Target", "private_copy"]


@dataclass(frozen=True)
class Target:
    """``sets``: encoded records by name, "forget" among them. ``variants``: by set, of all its records, in order."""

    model: torch.nn.Module
    tokenizer: object
    sets: Mapping[str, Sequence[Encoded]]
    variants: Mapping[str, Sequence[Variants]]
    pad_token_id: int
    batch_size: int
    seed: int

    def answers(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Prompt and answer of the forgotten records, as :func:`fastunlearn.audit.generation.generate` could write it:
        up to an end token, which it never gives back. Records without a token before theirs are left out."""
        eos = self.tokenizer.eos_token_id
        parts = [prompt_and_answer(one) for one in self.sets["forget"]]
        cut = [(prompt, cut_before_end(answer, eos)) for prompt, answer in parts]
        return [(prompt, answer) for prompt, answer in cut if len(answer)]

    def recall(self, model: torch.nn.Module, samples: Sequence[Encoded]) -> dict[str, np.ndarray]:
        """Of each record under ``model``: ``accuracy``, the share of its target tokens put first given the true ones
        before (exact memorisation), and ``probability``, the geometric mean of theirs; (n,), 0 to 1."""
        scores = token_scores(model, samples, pad_token_id=self.pad_token_id, batch_size=self.batch_size)
        return {"accuracy": exact_memorisation(scores), "probability": probability(scores)}

    def before_and_after(self, changed: torch.nn.Module, samples: Sequence[Encoded]) -> dict:
        """Both measures of ``samples`` under the model and under ``changed``."""
        before, after = self.recall(self.model, samples), self.recall(changed, samples)
        return {name: (before[name], after[name]) for name in before}


def private_copy(model: torch.nn.Module) -> torch.nn.Module:
    """A copy whose weights may change; the model's own do not."""
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, _ in gradients:
            parameter.grad = None
        return copy.deepcopy(model)
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
