"""Exposure of a planted secret (Carlini et al. 2019): its exact rank among all that it could have been."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastunlearn.audit._forward import check_samples
from fastunlearn.audit._shared import shared_log_probs
from fastunlearn.data.encode import Encoded, encode
from fastunlearn.data.records import Record
from fastunlearn.errors import InvalidInputError

if TYPE_CHECKING:
    from fastunlearn.data.people import Canary

__all__ = ["Exposure", "candidate_log_probs", "context_length", "exposure"]


@dataclass(frozen=True)
class Exposure:
    """``rank``: 1 is the most likely of all candidates (ties share the middle rank, so it may end in .5);
    ``candidates``: how many there are; ``bits``: log2(candidates) - log2(rank), 0 up to log2(candidates).
    """

    rank: float
    candidates: int
    bits: float


def context_length(model: torch.nn.Module) -> int:
    """The longest sequence that ``model`` takes, in tokens, by its configuration."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    length = getattr(config, "max_position_embeddings", None)
    if not isinstance(length, int) or length < 2:
        raise InvalidInputError("model: its configuration lacks max_position_embeddings (the context length)")
    return length


def _encode_candidates(model: torch.nn.Module, tokenizer, canary: Canary, add_bos: bool) -> list[Encoded]:
    candidates = list(canary.candidates)
    if len(candidates) < 2 or len(set(candidates)) != len(candidates):
        raise InvalidInputError("canary: its candidates must be at least two, all different")
    records = [Record(prompt=canary.record.prompt, completion=candidate) for candidate in candidates]
    samples = check_samples(
        encode(
            records, tokenizer, max_length=context_length(model), add_bos=add_bos, name="canary candidates"
        ),
        "canary candidates",
    )
    if len({tuple(sample.input_ids.tolist()) for sample in samples}) != len(samples):
        raise InvalidInputError(
            "tokenizer: two candidates of a canary become the same tokens, so no rank can be told; "
            "use a tokenizer that knows their characters"
        )
    return samples


def candidate_log_probs(
    model: torch.nn.Module, tokenizer, canary: Canary, *, batch_size: int = 64, add_bos: bool = True
) -> Tensor:
    """log P(candidate | prompt) for every candidate of ``canary``: (candidates,) float64 on the CPU, in nats.

    Candidates that differ in the last token alone share one forward pass: 1000 numbers of three digits
    cost 100 sequences.
    """
    samples = _encode_candidates(model, tokenizer, canary, add_bos)
    return shared_log_probs(model, samples, pad_token_id=tokenizer.pad_token_id, batch_size=batch_size)


def exposure(
    model: torch.nn.Module, tokenizer, canary: Canary, *, batch_size: int = 64, add_bos: bool = True
) -> Exposure:
    """The exact exposure of ``canary.secret`` among all of ``canary.candidates``.

    log2(candidates) bits: the model puts the secret first, it is remembered. About 1.4 bits is what a
    model that never saw the secret gives on average (rank uniform over many candidates). ``add_bos``: as the
    records were encoded (:func:`fastunlearn.data.encode.encode`).
    Raises InvalidInputError where the secret is not among the candidates, or two of them encode alike.
    """
    candidates = list(canary.candidates)
    if canary.secret not in candidates:
        raise InvalidInputError("canary: its secret is not among its candidates")
    scores = candidate_log_probs(model, tokenizer, canary, batch_size=batch_size, add_bos=add_bos)
    secret = scores[candidates.index(canary.secret)]
    greater = int((scores > secret).sum())
    ties = int((scores == secret).sum()) - 1
    rank = 1 + greater + ties / 2
    return Exposure(rank, len(candidates), math.log2(len(candidates)) - math.log2(rank))
