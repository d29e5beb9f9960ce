"""Records to token tensors, and tensors to padded batches.

The boundary between prompt and completion is found on the joined text, by the character offsets that the
tokenizer reports: a token that carries any character of the completion is a target. That is the
tokenisation that a model meets in training, and it is right for BPE, where the tokens of two parts put
together need not be the tokens of the whole. (Where a token covers the end of the prompt and the start of
the completion at once, it is a target; end the prompt without a space and begin the completion with it,
and no token does.) A tokenizer without offsets (a slow one) encodes the two parts apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fastunlearn.data.records import Record
from fastunlearn.errors import InvalidInputError

__all__ = ["IGNORE", "Encoded", "batches", "collate", "encode", "encode_like"]

#: The label of a token that is not scored (the value that PyTorch's cross entropy passes over).
IGNORE = -100


class Encoded(NamedTuple):
    """One record as tokens: two int64 tensors of shape (T,). ``labels[t]`` is ``input_ids[t]`` where token t
    is a target and -100 elsewhere; position t - 1 predicts it (the model shifts, as in transformers), so a
    label at position 0 counts for nothing."""

    input_ids: Tensor
    labels: Tensor

    @property
    def targets(self) -> int:
        """How many tokens of the record are predicted and scored."""
        return int((self.labels[1:] != IGNORE).sum())


def _split(records: Sequence[Record], tokenizer) -> Iterable[tuple[list[int], int]]:
    """For each record its token ids, without special tokens, and how many of them belong to the prompt."""
    options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    if not tokenizer.is_fast:
        for record in records:
            prompt = tokenizer(record.prompt, **options)["input_ids"] if record.prompt else []
            yield prompt + tokenizer(record.completion, **options)["input_ids"], len(prompt)
        return
    joined = tokenizer([record.text for record in records], return_offsets_mapping=True, **options)
    for record, ids, offsets in zip(records, joined["input_ids"], joined["offset_mapping"], strict=True):
        ends_at = len(record.prompt)
        yield ids, next((t for t, (_, end) in enumerate(offsets) if end > ends_at), len(ids))


def encode(
    records: Sequence[Record],
    tokenizer,
    *,
    max_length: int,
    truncate: bool = False,
    add_eos: bool = False,
    add_bos: bool = True,
    name: str = "forget",
    mend: str = "pass truncate=True to cut its end (--truncate; data.truncate in fastunlearn.toml)",
) -> list[Encoded]:
    """The records as token tensors, in order.

    ``tokenizer``: a transformers tokenizer. ``max_length``: the model's context, in tokens; a longer record
    is an error, or is cut at its end with ``truncate``. ``add_bos``: put the tokenizer's bos token, where it
    has one, before every record (it is never a target). ``add_eos``: put its eos token, as a target, after
    every record. No other special token is added. ``name``: what the records are called in error messages,
    which count them from 1 and never quote them. ``mend``: what else helps where one is too long.

    With a prompt, the tokens of the completion are the targets. Free text: ``labels`` equals ``input_ids``,
    and all tokens but the first are targets (with bos: all tokens of the text).

    Raises InvalidInputError for an empty sequence, for something that is no Record, for a record that is too
    long, and for one that has no target.
    """
    records = list(records)
    if not records:
        raise InvalidInputError(f"{name} holds no records: give at least one")
    for number, record in enumerate(records, 1):
        if not isinstance(record, Record):
            raise InvalidInputError(
                f"record {number} of {name} is a {type(record).__name__}, not a Record: "
                "build it with Record(prompt, completion) or load_records"
            )
    if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 2:
        raise InvalidInputError(f"max_length must be an integer of at least 2 tokens, got {max_length!r}")
    if add_eos and tokenizer.eos_token_id is None:
        raise InvalidInputError("add_eos: the tokenizer has no eos token; pass add_eos=False")
    first = [tokenizer.bos_token_id] if add_bos and tokenizer.bos_token_id is not None else []
    last = [tokenizer.eos_token_id] if add_eos else []

    samples = []
    split = zip(records, _split(records, tokenizer), strict=True)
    for number, (record, (ids, prompt)) in enumerate(split, 1):
        ids = first + ids + last
        masked = len(first) + prompt if record.prompt else 0
        if len(ids) > max_length and not truncate:
            raise InvalidInputError(
                f"record {number} of {name} has {len(ids)} tokens, the context is {max_length}: "
                f"shorten the record, or {mend}"
            )
        sample = Encoded(
            torch.tensor(ids[:max_length], dtype=torch.int64),
            torch.tensor(([IGNORE] * masked + ids[masked:])[:max_length], dtype=torch.int64),
        )
        if not sample.targets:
            why = (
                f"its prompt fills the context of {max_length}: shorten the prompt"
                if len(ids) > max_length
                else "a completion needs one token, free text without bos needs two"
            )
            raise InvalidInputError(f"record {number} of {name} has no token to score: {why}")
        samples.append(sample)
    return samples


def encode_like(
    sample: Encoded, records: Sequence[Record], tokenizer, *, max_length: int, name: str
) -> list[Encoded]:
    """:func:`encode`, with bos and eos tokens where ``sample`` has them. Raises InvalidInputError as that."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return encode(
        records,
        tokenizer,
        max_length=max_length,
        add_bos=bos is not None and int(sample.input_ids[0]) == bos,
        add_eos=eos is not None and int(sample.labels[-1]) == eos,
        name=name,
    )


def collate(samples: Sequence[Encoded], *, pad_token_id: int) -> dict[str, Tensor]:
    """The samples as one batch, padded on the right to the longest: ``input_ids``, ``attention_mask`` and
    ``labels``, each int64 of shape (B, T); the mask is 0 and the label -100 on padding.

    Raises InvalidInputError for no samples, and for a ``pad_token_id`` that is no token id.
    """
    if not samples:
        raise InvalidInputError("samples is empty: a batch needs at least one")
    if isinstance(pad_token_id, bool) or not isinstance(pad_token_id, int) or pad_token_id < 0:
        raise InvalidInputError(
            f"pad_token_id must be a token id, got {pad_token_id!r}: where the tokenizer has no pad token, "
            "pass its eos_token_id (padding is masked, so any id will do)"
        )
    ids = pad_sequence([s.input_ids for s in samples], batch_first=True, padding_value=pad_token_id)
    labels = pad_sequence([s.labels for s in samples], batch_first=True, padding_value=IGNORE)
    lengths = torch.tensor([len(s.input_ids) for s in samples])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).to(torch.int64)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def batches(samples: Sequence[Encoded], size: int, *, pad_token_id: int) -> list[dict[str, Tensor]]:
    """All samples in their order, as padded batches of ``size`` (the last one may be smaller); see
    :func:`collate`. Raises InvalidInputError for no samples or a size below 1."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InvalidInputError(f"size must be an integer of at least 1, got {size!r}")
    if not samples:
        raise InvalidInputError("samples is empty: give at least one")
    return [
        collate(samples[start : start + size], pad_token_id=pad_token_id)
        for start in range(0, len(samples), size)
    ]
