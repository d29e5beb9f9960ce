"""All measurements of one model, as one dictionary that is ready for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from fastunlearn.audit.bootstrap import interval
from fastunlearn.audit.divergence import ReferenceLogProbs, kl, reference_log_probs
from fastunlearn.audit.exposure import context_length, exposure
from fastunlearn.audit.membership import auc
from fastunlearn.audit.scores import TokenScores, token_scores
from fastunlearn.data.encode import Encoded, encode
from fastunlearn.errors import InvalidInputError
from fastunlearn.progress import NO_PROGRESS, Progress, Task

if TYPE_CHECKING:
    from fastunlearn.data.people import Canary

__all__ = ["cache_reference", "find_canary", "measure"]


def cache_reference(
    model: torch.nn.Module,
    *,
    forget: Sequence[Encoded],
    retain: Sequence[Encoded] | None = None,
    held_out: Sequence[Encoded] | None = None,
    pad_token_id: int,
    batch_size: int = 64,
    dtype: torch.dtype = torch.float32,
) -> dict[str, ReferenceLogProbs]:
    """The reference model's log-probabilities on every set given, for ``reference=`` of :func:`measure`."""
    sets = {"forget": forget, "retain": retain, "held_out": held_out}
    return {
        name: reference_log_probs(
            model, samples, pad_token_id=pad_token_id, batch_size=batch_size, dtype=dtype
        )
        for name, samples in sets.items()
        if samples is not None
    }


def _summary(scores: TokenScores) -> dict:
    perplexity = scores.perplexity
    return {
        "loss": scores.loss,
        "perplexity": perplexity if math.isfinite(perplexity) else None,
        "accuracy": scores.accuracy,
        "samples": scores.samples,
        "tokens": len(scores.log_prob),
    }


def _holds(samples: Sequence[Encoded], ids: list[int]) -> bool:
    """Whether one of ``samples`` begins with ``ids`` (an end token may follow)."""
    return any(sample.input_ids[: len(ids)].tolist() == ids for sample in samples)


def find_canary(model, tokenizer, canary: Canary, index: int, forget, retain) -> tuple[bool, bool]:
    """Whether the record of ``canary`` is in forget, and whether it was encoded with bos there."""
    for add_bos in (True, False):
        record = encode(
            [canary.record], tokenizer, max_length=context_length(model), add_bos=add_bos, name="canaries"
        )[0]
        ids = record.input_ids.tolist()
        if _holds(forget, ids):
            return True, add_bos
        if retain is not None and _holds(retain, ids):
            return False, add_bos
    raise InvalidInputError(f"canaries[{index}]: its record is in neither forget nor retain; add it")


def _mean_bits(found: list[dict], forgotten: bool) -> float | None:
    bits = [one["bits"] for one in found if one["forgotten"] is forgotten]
    return sum(bits) / len(bits) if bits else None


def _check(sets: Mapping[str, Sequence[Encoded] | None], reference, canaries, tokenizer, pad_token_id) -> int:
    """The padding token; raises InvalidInputError where the arguments do not fit one another."""
    if sets["forget"] is None:
        raise InvalidInputError("forget: pass the encoded records to forget")
    if isinstance(reference, Mapping):
        missing = [name for name, samples in sets.items() if samples is not None and name not in reference]
        if missing:
            raise InvalidInputError(f"reference: lacks {', '.join(missing)}; make it with cache_reference")
    if canaries and tokenizer is None:
        raise InvalidInputError("tokenizer: needed to measure the exposure of canaries")
    if pad_token_id is None:
        pad_token_id = getattr(tokenizer, "pad_token_id", None)
    if pad_token_id is None:
        raise InvalidInputError("pad_token_id: pass it, or a tokenizer that has a padding token")
    return pad_token_id


def measure(
    model: torch.nn.Module,
    *,
    forget: Sequence[Encoded],
    retain: Sequence[Encoded] | None = None,
    held_out: Sequence[Encoded] | None = None,
    reference: torch.nn.Module | Mapping[str, ReferenceLogProbs] | None = None,
    canaries: Sequence[Canary] = (),
    tokenizer=None,
    pad_token_id: int | None = None,
    batch_size: int = 64,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict:
    """Everything the report says of ``model``. What could not be measured is None, never left out.

    - ``forget``, ``retain``, ``held_out``: ``loss`` (nats per target token), ``perplexity`` (None where too
      large for a float), ``accuracy`` (share of target tokens put first), ``samples``, ``tokens``; or None
    - ``kl_forget``, ``kl_retain``, ``kl_held_out``: KL(reference || model) in nats per target token
    - ``exposure``: per canary ``rank``, ``candidates``, ``bits``, ``forgotten`` (its record is in forget);
      ``exposure_forget``, ``exposure_retain``: mean bits
    - ``membership``: ``auc`` of telling forget records from held-out ones by their loss, with ``low`` and
      ``high`` of its bootstrap interval and their ``level``; or None without ``held_out``

    ``reference``: a model, most often one retrained without the forget set, or the result of
    :func:`cache_reference` for these sets. ``canaries`` are encoded with or without bos, as the sets are.
    ``level``, ``resamples``, ``seed``: of the bootstrap interval.
    Raises InvalidInputError for empty sets, a canary in neither set, and models with NaN.
    """
    sets = {"forget": forget, "retain": retain, "held_out": held_out}
    canaries = list(canaries)
    pad = _check(sets, reference, canaries, tokenizer, pad_token_id)
    total = sum(len(samples) for samples in sets.values() if samples is not None) + len(canaries)
    with (progress or NO_PROGRESS).task("measure", total) as task:
        result, scores = _predictions(model, sets, reference, pad, batch_size, task)
        found = _exposures(model, tokenizer, canaries, sets, pad, batch_size, task)
    result["exposure"] = found
    result["exposure_forget"] = _mean_bits(found, True)
    result["exposure_retain"] = _mean_bits(found, False)
    result["membership"] = None
    if "held_out" in scores:
        losses = [scores[name].sample_losses.numpy() for name in ("forget", "held_out")]
        value, low, high = interval(auc, *losses, level=level, resamples=resamples, seed=seed)
        result["membership"] = {"auc": value, "low": low, "high": high, "level": level}
    return result


def _predictions(
    model, sets: Mapping[str, Sequence[Encoded] | None], reference, pad: int, batch_size: int, task: Task
) -> tuple[dict, dict[str, TokenScores]]:
    """Summary and KL of every set, None for those that were not given; and the scores of those that were."""
    result: dict = {}
    scores = {}
    for name, samples in sets.items():
        result[name] = result[f"kl_{name}"] = None
        if samples is None:
            continue
        try:
            scores[name] = token_scores(model, samples, pad_token_id=pad, batch_size=batch_size)
        except InvalidInputError as error:
            raise InvalidInputError(f"{name}: {error}") from error
        result[name] = _summary(scores[name])
        if reference is not None:
            other = reference[name] if isinstance(reference, Mapping) else reference
            result[f"kl_{name}"] = kl(other, model, samples, pad_token_id=pad, batch_size=batch_size)
        task.advance(len(samples))
    return result, scores


def _exposures(
    model, tokenizer, canaries: Sequence[Canary], sets, pad: int, batch_size: int, task: Task
) -> list[dict]:
    found = []
    for index, canary in enumerate(canaries):
        forgotten, add_bos = find_canary(model, tokenizer, canary, index, sets["forget"], sets["retain"])
        one = exposure(model, tokenizer, canary, batch_size=batch_size, add_bos=add_bos, pad_token_id=pad)
        found.append(
            {"rank": one.rank, "candidates": one.candidates, "bits": one.bits, "forgotten": forgotten}
        )
        task.advance()
    return found
