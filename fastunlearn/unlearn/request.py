"""A request to unlearn, checked and encoded: what every method works on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeGuard, cast

from torch import nn

from fastunlearn.audit.exposure import context_length, known_context
from fastunlearn.data.encode import Encoded, encode
from fastunlearn.data.loading import load_records
from fastunlearn.data.records import Record
from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.model_state import check_finite, select_parameters
from fastunlearn.operators.state import PassState
from fastunlearn.progress import NO_PROGRESS, Progress
from fastunlearn.resources import parse_memory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Records", "Request", "check_overlap", "encode_set", "most_tokens", "pad_token", "prepare"]

#: Records as a user gives them: a path or a name, rows, or encoded ones.
Plain = str | os.PathLike | Iterable[Record | Mapping[str, Any]]
Records = Plain | Sequence[Encoded]


@dataclass
class Request:
    """``forget``, ``retain``, ``held_out``: encoded records (the last two may be empty). ``parameters``: those
    that may change. ``on_step(step)`` is called after each step, with the model in its new state. ``state``: where
    weights and step log are kept, so that a run that was killed can be taken up again (resume.py)."""

    model: nn.Module
    pad_token_id: int
    parameters: dict[str, nn.Parameter]
    forget: list[Encoded]
    retain: list[Encoded]
    held_out: list[Encoded]
    seed: int
    batch_size: int
    memory_bytes: int
    progress: Progress
    on_step: Callable[[dict], None] | None = None
    state: PassState | None = None
    notes: list[str] = field(default_factory=list)
    gradients: int = 0  # per-sample gradient evaluations spent so far

    def spend(self, gradients: int) -> None:
        """Counts per-sample gradient evaluations."""
        self.gradients += gradients


def pad_token(model: nn.Module, tokenizer: PreTrainedTokenizerBase | None) -> int:
    """The padding token's number; any will do where there is none, because padding is masked out."""
    for owner in (tokenizer, getattr(model, "config", None)):
        for name in ("pad_token_id", "eos_token_id"):
            value = getattr(owner, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
                return value
    return 0


def _is_encoded(source: Records) -> TypeGuard[Sequence[Encoded]]:
    return isinstance(source, Sequence) and len(source) > 0 and all(isinstance(one, Encoded) for one in source)


def encode_set(
    source: Records, tokenizer: PreTrainedTokenizerBase | None, *, max_length: int, truncate: bool, name: str
) -> list[Encoded]:
    """Records of any kind that :func:`~fastunlearn.data.loading.load_records` takes, or encoded ones, as tokens.

    Raises InvalidInputError, naming ``name``, for none at all, and for a record longer than ``max_length``
    unless ``truncate``.
    """
    if _is_encoded(source):
        longest = max(sample.input_ids.numel() for sample in source)
        if longest > max_length:
            raise InvalidInputError(f"{name}: a record has {longest} tokens, the context is {max_length}: shorten it")
        if not all(sample.targets for sample in source):
            raise InvalidInputError(f"{name}: an encoded record has no target token")
        return list(source)
    if isinstance(source, Sequence) and not isinstance(source, str) and len(source) == 0:
        raise InvalidInputError(f"{name} is empty: give at least one record")
    if tokenizer is None:
        raise InvalidInputError(f"tokenizer is needed to encode {name}; pass one, or pass encoded records")
    try:
        records = load_records(cast(Plain, source))  # encoded ones have returned above
    except InvalidInputError as error:
        raise InvalidInputError(f"{name}: {error}") from error
    return encode(records, tokenizer, max_length=max_length, truncate=truncate, name=name)


def _key(sample: Encoded) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    return tuple(sample.input_ids.tolist()), tuple((sample.labels[1:] != -100).tolist())


def most_tokens(model: nn.Module, max_length: int | None) -> int:
    """The most tokens of a record: ``max_length``, which must fit the model, else the model's context. Raises
    InvalidInputError."""
    if max_length is None:
        return context_length(model)
    longest = known_context(model)
    whole = isinstance(max_length, int) and not isinstance(max_length, bool)
    if not whole or max_length < 2 or (longest is not None and max_length > longest):
        most = "upwards" if longest is None else f"to the model's {longest}"
        raise InvalidInputError(f"max_length={max_length!r} must be an integer from 2 {most}")
    return max_length


def check_overlap(a: list[Encoded], b: list[Encoded], name: str) -> None:
    """Raises InvalidInputError where records of ``a``, the forget set, are in ``b`` too, the set ``name``."""
    first: dict[tuple[tuple[int, ...], tuple[bool, ...]], int] = {}
    for number, sample in enumerate(a, 1):
        first.setdefault(_key(sample), number)
    shared = [(first[_key(s)], number) for number, s in enumerate(b, 1) if _key(s) in first]
    if shared:
        raise InvalidInputError(
            f"forget and {name} overlap: {len(shared)} records are in both (first: record {shared[0][0]} of forget is "
            f"record {shared[0][1]} of {name}); remove them from {name}"
        )


def prepare(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    forget: Records | None,
    retain: Records | None = None,
    held_out: Records | None = None,
    parameters: Sequence[str] | str | None = None,
    seed: int = 0,
    max_length: int | None = None,
    truncate: bool = False,
    batch_size: int = 32,
    memory: int | str = "1GB",
    progress: Progress | None = None,
    on_step: Callable[[dict], None] | None = None,
    state: PassState | None = None,
) -> Request:
    """Checks everything that can be checked before any computing. Raises InvalidInputError."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InvalidInputError(f"seed={seed!r} must be an integer from 0 to 2**32 - 1")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InvalidInputError(f"batch_size={batch_size!r} must be an integer of at least 1")
    check_finite(dict(model.named_parameters()))
    chosen = select_parameters(model, parameters)
    limit = most_tokens(model, max_length)
    sets: dict[str, list[Encoded]] = {}
    for name, source in (("forget", forget), ("retain", retain), ("held_out", held_out)):
        if source is None and name != "forget":
            sets[name] = []
            continue
        if source is None:
            raise InvalidInputError("forget is missing: give the records to forget")
        sets[name] = encode_set(source, tokenizer, max_length=limit, truncate=truncate, name=name)
    check_overlap(sets["forget"], sets["retain"], "retain")
    check_overlap(sets["forget"], sets["held_out"], "held_out")
    return Request(
        model, pad_token(model, tokenizer), chosen, sets["forget"], sets["retain"], sets["held_out"], seed=seed,
        batch_size=batch_size, memory_bytes=parse_memory(memory), progress=progress or NO_PROGRESS, on_step=on_step,
        state=state,
    )  # fmt: skip
