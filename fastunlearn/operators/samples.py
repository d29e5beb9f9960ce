"""Samples, whichever way they come: encoded records, or batches as the model takes them.

A *sample* is one row of a batch. Rows are cut at their last attended token, so that padding costs nothing and a
row may meet others of another length in a batch of our own choice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fastunlearn.data.encode import IGNORE, Encoded, collate
from fastunlearn.errors import InvalidInputError

__all__ = ["Row", "Sample", "collate_any", "sample_digest", "to_samples"]

_SWITCHES = ("use_cache", "return_dict", "output_attentions", "output_hidden_states")


class Row(NamedTuple):
    """One row of a batch that has more than tokens and labels. ``input_ids``, ``labels`` int64 (T,). ``extra``: the
    batch's other tensors, this row of each; those of shape (T, ...) are per token."""

    input_ids: Tensor
    labels: Tensor
    extra: dict[str, Tensor]


Sample = Encoded | Row


def to_samples(batches: Iterable[Mapping | Sample] | Mapping) -> list[Sample]:
    """The rows of ``batches``: mappings with ``input_ids`` and ``labels`` (B, T), or samples already.

    Raises InvalidInputError for anything else, and where there is no row at all.
    """
    batches = [batches] if isinstance(batches, Mapping) else list(batches)
    found: list[Sample] = []
    for number, batch in enumerate(batches):
        if isinstance(batch, Encoded | Row):
            found.append(batch)
        elif isinstance(batch, Mapping):
            found += _rows(batch, number)
        else:
            raise InvalidInputError(
                f"batches: item {number} is a {type(batch).__name__}; give mappings with input_ids and labels, as the "
                "model takes them, or encoded samples"
            )
    if not found:
        raise InvalidInputError("batches is empty: give at least one sample to take gradients of")
    return found


def _rows(batch: Mapping, number: int) -> list[Sample]:
    for name in ("input_ids", "labels"):
        value = batch.get(name)
        if not isinstance(value, Tensor) or value.dim() != 2 or value.dtype != torch.int64:
            raise InvalidInputError(f"batches: item {number} needs {name} as an int64 tensor (rows, tokens)")
    count, length = batch["input_ids"].shape
    if batch["labels"].shape != (count, length):
        raise InvalidInputError(f"batches: item {number} has labels of another shape than its input_ids")
    others = {}
    for name, value in batch.items():
        if name in ("input_ids", "labels") or value is None or name in _SWITCHES:
            continue
        if not isinstance(value, Tensor) or value.shape[:1] != (count,):
            raise InvalidInputError(f"batches: {name} of item {number} must be a tensor with one row per sample")
        others[name] = value
    mask = others.get("attention_mask", torch.ones(count, length, dtype=torch.int64))
    if mask.shape != (count, length):
        raise InvalidInputError(f"batches: attention_mask of item {number} must be {(count, length)}")
    return [_row(batch, others, mask, i) for i in range(count)]


def _row(batch: Mapping, others: dict[str, Tensor], mask: Tensor, i: int) -> Sample:
    length = batch["input_ids"].shape[1]
    attended = torch.nonzero(mask[i]).flatten()
    end = int(attended[-1]) + 1 if attended.numel() else length
    cut = {
        name: value[i, :end] if value.dim() > 1 and value.shape[1] == length else value[i]
        for name, value in others.items()
    }
    ids, labels = batch["input_ids"][i, :end].cpu(), batch["labels"][i, :end].cpu()
    if set(cut) <= {"attention_mask"} and bool(mask[i, :end].all()):
        return Encoded(ids, labels)
    return Row(ids, labels, cut)


def collate_any(samples: Sequence[Sample], *, pad_token_id: int) -> dict[str, Tensor]:
    """The samples as one right-padded batch; see :func:`fastunlearn.data.encode.collate`. Rows of packed sequences,
    which have positions and no mask, get none."""
    if not any(isinstance(s, Row) for s in samples):
        return collate(samples, pad_token_id=pad_token_id)
    batch = collate([Encoded(s.input_ids, s.labels) for s in samples], pad_token_id=pad_token_id)
    names = {name for s in samples if isinstance(s, Row) for name in s.extra}
    for name in names:
        values = [s.extra.get(name) if isinstance(s, Row) else None for s in samples]
        if name == "attention_mask":
            values = [torch.ones_like(s.input_ids) if v is None else v for v, s in zip(values, samples, strict=True)]
        if any(v is None for v in values):
            raise InvalidInputError(f"batches: some samples have {name} and others have not; give it to all or none")
        per_token = all(
            v.dim() and v.shape[0] == s.input_ids.numel() for v, s in zip(values, samples, strict=True)
        )
        batch[name] = pad_sequence(values, batch_first=True) if per_token else torch.stack(values)
    if "position_ids" in names and "attention_mask" not in names and _packed(samples):
        del batch["attention_mask"]
    return batch


def _packed(samples: Sequence[Sample]) -> bool:
    """Whether positions start again within a row. transformers then cuts the attention there, but only in a batch
    without a mask; and padding on the right needs none, as no token sees what comes after it."""
    positions = (s.extra["position_ids"] for s in samples if isinstance(s, Row))
    return any(bool((one.diff(dim=-1) != 1).any()) for one in positions if one.dim())


def sample_digest(sample: Sample) -> str:
    """SHA-256 of what the sample holds: two samples with one digest are the same."""
    digest = hashlib.sha256()
    parts = {"input_ids": sample.input_ids, "labels": torch.where(sample.labels == IGNORE, IGNORE, sample.labels)}
    parts |= getattr(sample, "extra", {})
    for name in sorted(parts):
        value = parts[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
