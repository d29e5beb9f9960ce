"""Sampling many times: an answer that is not the likeliest any more may still come in one draw of many.

Source: Reisizadeh et al. 2025, "Leak@k" (arXiv 2511.04934); Scholten et al. 2025, "A Probabilistic Perspective on
Unlearning" (arXiv 2410.03523): greedy decoding alone shows too little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fastunlearn.audit._forward import evaluating, target_logits
from fastunlearn.audit.attacks.outcome import Outcome
from fastunlearn.audit.attacks.target import Target
from fastunlearn.audit.generation import generate
from fastunlearn.audit.metrics.rouge import rouge_l
from fastunlearn.data.encode import IGNORE, Encoded
from fastunlearn.errors import InvalidInputError

__all__ = ["SampleSettings", "missing", "sample"]


@dataclass(frozen=True)
class SampleSettings:
    """``draws`` answers for each prompt, at ``temperature``."""

    draws: int = 20
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.draws < 1 or self.temperature <= 0:
            raise InvalidInputError("draws must be at least 1 and temperature above 0")


def missing(target: Target) -> str | None:
    """Why the attack cannot be run."""
    return None if target.answers() else "forgotten records whose answers have a token before their end token"


def sample(target: Target, settings: SampleSettings) -> Outcome:
    """``exact``: before, whether the greedy answer is the true one; after, the chance that at least one of the draws
    is, 1 - (1 - p)^draws, from the answer's probability p at that temperature (exact, no draws needed).
    The end token of an answer is no part of it: it says nothing of the record.
    ``rouge_l_recall``: of the greedy answer, and the best of the draws."""
    parts = target.answers()
    prompts, lengths = [prompt for prompt, _ in parts], [len(answer) for _, answer in parts]
    options = {"eos_token_id": target.tokenizer.eos_token_id, "batch_size": target.batch_size}
    greedy = [one[0] for one in generate(target.model, prompts, lengths, **options)]
    drawn = generate(
        target.model, prompts, lengths, temperature=settings.temperature, draws=settings.draws, seed=target.seed,
        **options,
    )  # fmt: skip
    right = np.array([float(torch.equal(one, answer)) for one, (_, answer) in zip(greedy, parts, strict=True)])
    chance = -np.expm1(settings.draws * np.log1p(-_answer_probabilities(target, parts, settings.temperature)))
    texts = [_text(target, answer) for _, answer in parts]

    def best(written: list[list[torch.Tensor]]) -> np.ndarray:
        pairs = zip(written, texts, strict=True)
        return np.array([max(rouge_l(_text(target, one), text).recall for one in some) for some, text in pairs])

    recall = (best([[one] for one in greedy]), best(drawn))
    return Outcome({"exact": (right, chance), "rouge_l_recall": recall}, {})


def _text(target: Target, tokens: torch.Tensor) -> str:
    return target.tokenizer.decode(tokens.tolist(), skip_special_tokens=True)


def _answer_probabilities(target: Target, parts: list, temperature: float) -> np.ndarray:
    """(m,): the probability of drawing exactly the answer after each prompt, a little below 1 at most."""
    samples = []
    for prompt, answer in parts:
        labels = torch.cat([torch.full_like(prompt, IGNORE), answer])
        samples.append(Encoded(torch.cat([prompt, answer]), labels))
    sums = torch.zeros(len(samples), dtype=torch.float64)
    with evaluating(target.model):
        for logits, targets, owner in target_logits(
            target.model, samples, pad_token_id=target.pad_token_id, batch_size=target.batch_size
        ):
            log_probs = (logits.double() / temperature).log_softmax(1)
            sums.index_add_(0, owner, log_probs.gather(1, targets[:, None]).squeeze(1).cpu())
    return np.minimum(sums.exp().numpy(), 1.0 - 1e-15)
