"""Explicit positions for a batch, so that a table of positions, too, is looked up once per sample; they must be those
that the model would take by itself.

Most models count every place, RoBERTa and its kin the tokens that are no padding, from the padding's number on. Which
way a model counts is not believed but tried, on a few tokens with and without padding on the left. A model that neither
way fits (OPT counts the places that are attended to) gets no positions.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from .forward import arguments, logits, takes
from .model_state import evaluation

__all__ = ["add_positions"]

_TOKENS, _PADDED = 8, 2  # of the trial
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}  # norms compute in float32 inside; half types: 2e-2

Batch = dict[str, Tensor]
Way = Callable[[Batch], Tensor]

#: By model: its kind of attention at the trial, and the way.
_ways: weakref.WeakKeyDictionary[nn.Module, tuple[str | None, Way | None]] = weakref.WeakKeyDictionary()


def _places(batch: Batch) -> Tensor:
    ids = batch["input_ids"]
    return torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)


def _written(batch: Batch, padding: int) -> Tensor:
    kept = batch["input_ids"].ne(padding).long()
    return kept.cumsum(1) * kept + padding


def add_positions(model: nn.Module, batch: Batch) -> Batch:
    """The batch with ``position_ids`` where the model takes them, has none given, and counts in a way that is known.
    Two forward passes find it out, the first time."""
    if "position_ids" in batch or not takes(model, "position_ids"):
        return batch
    attention = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if model not in _ways or _ways[model][0] != attention:  # another kind may bear padding that this one did not
        with torch.no_grad(), evaluation(model):
            _ways[model] = attention, _try(model, batch)
    way = _ways[model][1]
    return batch if way is None else {**batch, "position_ids": way(batch)}


def _try(model: nn.Module, batch: Batch) -> Way | None:
    config = getattr(model, "config", None)
    context = getattr(config, "max_position_embeddings", None)
    context = context if isinstance(context, int) else None
    padding = getattr(config, "pad_token_id", None)
    padding = padding if isinstance(padding, int) and padding >= 0 else None
    passed = arguments(model, batch)
    cases = _cases({name: value for name, value in batch.items() if name in passed}, padding, context)
    ways: list[Way] = [_places]
    if padding is not None and context is not None and cases[0]["input_ids"].shape[1] + padding < context:
        ways.append(partial(_written, padding=padding))
    # The last one turns the order round: where that changes nothing, nothing can be told.
    tried = [*ways, lambda one: _places(one).flip(1)]
    rows = {name: torch.cat([one[name] for one in cases for _ in tried]) for name in cases[0]}
    rows["labels"] = rows["input_ids"]  # for a model that cannot be called without
    given = logits(model, {**rows, "position_ids": torch.cat([way(one) for one in cases for way in tried])})
    own = logits(model, rows)
    # All places count: the first target after padding on the left is predicted from a place that is not attended to.
    given, own = given.flatten(1), own.flatten(1)
    sound = own.isfinite().all(1)  # not so with padding on the left of eager attention in float64
    own = own[sound]
    off = (given[sound] - own).abs().amax(1).view(-1, len(tried)).amax(0)
    limit = _TOLERANCE.get(own.dtype, 2e-2) * own.abs().max()
    agree = (off <= limit).tolist()
    told = bool(off[-1] > 4 * limit)
    return next((way for way, fits in zip(ways, agree, strict=False) if fits and told), None)


def _cases(batch: Batch, padding: int | None, context: int | None) -> list[Batch]:
    """A few tokens of the batch's first row; where it has a mask, also with padding on the left, as ordinary tokens
    and as the padding's own."""
    ids = batch["input_ids"]
    first = {name: value[:1] for name, value in batch.items() if name != "labels"}
    if any(value.shape[:2] != ids.shape for value in batch.values()):
        return [first]  # images and the like belong to the whole row
    length = min(_TOKENS, context or _TOKENS)
    first = {name: value.repeat(1, -(-length // ids.shape[1]))[:, :length] for name, value in first.items()}
    if "attention_mask" not in first:
        return [first]
    first["attention_mask"] = torch.ones_like(first["attention_mask"])
    masked = torch.where(_places(first) < _PADDED, 0, first["attention_mask"])
    cases = [first, {**first, "attention_mask": masked}]
    if padding is not None:
        cases.append({**cases[1], "input_ids": first["input_ids"].where(masked.bool(), padding)})
    return cases
