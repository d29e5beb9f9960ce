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

__all__ = ["Exposure", "candidate_log_probs", "context_length", "exposure", "known_context"]


@dataclass(frozen=True)
class Exposure:
    """``rank``: 1 is the most likely of all candidates (ties share the middle rank, so it may end in .5);
    ``candidates``: how many there are; ``bits``: log2(candidates) - log2(rank), 0 up to log2(candidates).
    """

    rank: float
    candidates: int
    bits: float


def known_context(model: torch.nn.Module) -> int | None:
    """The longest sequence that ``model`` takes, in tokens, by its configuration; None where that does not say, as of
    models without positions of their own (ALiBi, state spaces)."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    length = getattr(config, "max_position_embeddings", None)
    return length if isinstance(length, int) and length >= 2 else None


def context_length(model: torch.nn.Module) -> int:
    """:func:`known_context`; raises InvalidInputError where the configuration does not say it."""
    length = known_context(model)
    if length is None:
        raise InvalidInputError(
            "model: its configuration lacks max_position_embeddings (the context length); give max_length "
            "(--max-length, data.max_length), the most tokens of a record"
        )
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
    model: torch.nn.Module, tokenizer, canary: Canary, *, batch_size: int = 64, add_bos: bool = True,
    pad_token_id: int | None = None,
) -> Tensor:  # fmt: skip
    """log P(candidate | prompt) for every candidate of ``canary``: (candidates,) float64 on the CPU, in nats.

    Candidates that differ in the last token alone share one forward pass: 1000 numbers of three digits
    cost 100 sequences. ``pad_token_id``: default the tokenizer's.
    """
    samples = _encode_candidates(model, tokenizer, canary, add_bos)
    pad = tokenizer.pad_token_id if pad_token_id is None else pad_token_id
    return shared_log_probs(model, samples, pad_token_id=pad, batch_size=batch_size)


def exposure(
    model: torch.nn.Module, tokenizer, canary: Canary, *, batch_size: int = 64, add_bos: bool = True,
    pad_token_id: int | None = None,
) -> Exposure:  # fmt: skip
    """The exact exposure of ``canary.secret`` among all of ``canary.candidates``.

    log2(candidates) bits: the model puts the secret first, it is remembered. About 1.4 bits is what a
    model that never saw the secret gives on average (rank uniform over many candidates). ``add_bos``: as the
    records were encoded (:func:`fastunlearn.data.encode.encode`). ``pad_token_id``: default the tokenizer's.
    Raises InvalidInputError where the secret is not among the candidates, or two of them encode alike.
    """
    candidates = list(canary.candidates)
    if canary.secret not in candidates:
        raise InvalidInputError("canary: its secret is not among its candidates")
    options = {"batch_size": batch_size, "add_bos": add_bos, "pad_token_id": pad_token_id}
    scores = candidate_log_probs(model, tokenizer, canary, **options)
    secret = scores[candidates.index(canary.secret)]
    greater = int((scores > secret).sum())
    ties = int((scores == secret).sum()) - 1
    rank = 1 + greater + ties / 2
    return Exposure(rank, len(candidates), math.log2(len(candidates)) - math.log2(rank))
