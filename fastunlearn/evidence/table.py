"""Figures of every record under the model after: what the aggregate metrics are sums of, so that a part of them can be
measured again and all of them be added up again. Numbers only; records are named by their place in the set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fastunlearn.errors import InvalidInputError

from .canonical import visible

if TYPE_CHECKING:
    import torch

    from fastunlearn.data.records import Record

__all__ = ["SETS", "add_up", "encoded_sets", "intervals", "record_table", "rows_of"]

SETS = ("forget", "retain", "held_out")
_MOST_RESAMPLES = 1_000_000  # a folder may come from anybody: its check must end
_CLOSE = 1e-9  # sums of the same float64 numbers in another order


def encoded_sets(
    model: torch.nn.Module, tokenizer, sets: Mapping[str, Sequence[Record]], *, max_length: int | None = None,
    truncate: bool = False,
) -> dict[str, list]:  # fmt: skip
    """The records as tokens, as ``measure`` takes them; empty sets are left out. ``max_length``: tokens (default: the
    model's context)."""
    from fastunlearn.audit.exposure import context_length
    from fastunlearn.data.encode import encode

    limit = context_length(model) if max_length is None else max_length
    return {
        name: encode(list(sets[name]), tokenizer, max_length=limit, truncate=truncate, name=name)
        for name in SETS
        if sets.get(name)
    }


def rows_of(model: torch.nn.Module, samples: Sequence, *, pad_token_id: int, batch_size: int = 64) -> dict[str, list]:
    """``tokens``, ``correct`` (target tokens put first) and ``log_prob`` (nats, their sum) of each sample."""
    import torch

    from fastunlearn.audit.scores import token_scores

    scores = token_scores(model, samples, pad_token_id=pad_token_id, batch_size=batch_size)
    counts = torch.bincount(scores.sample, minlength=scores.samples)
    correct = torch.bincount(scores.sample, weights=scores.correct.double(), minlength=scores.samples)
    return {
        "tokens": counts.tolist(),
        "correct": [int(one) for one in correct.tolist()],
        "log_prob": scores.sample_log_probs.tolist(),
    }


def record_table(
    model: torch.nn.Module, tokenizer, sets: Mapping[str, Sequence[Record]], *, max_length: int | None = None,
    truncate: bool = False, batch_size: int = 64,
) -> dict[str, dict]:  # fmt: skip
    """:func:`rows_of` for each set (``forget``, ``retain``, ``held_out``) that has records."""
    from fastunlearn.unlearn.request import pad_token

    pad = pad_token(model, tokenizer)
    samples = encoded_sets(model, tokenizer, sets, max_length=max_length, truncate=truncate)
    return {name: rows_of(model, found, pad_token_id=pad, batch_size=batch_size) for name, found in samples.items()}


def _far(stated: object, found: float) -> bool:
    if isinstance(stated, bool) or not isinstance(stated, (int, float)):
        return True
    return not math.isclose(stated, found, rel_tol=_CLOSE, abs_tol=_CLOSE)


def _losses(rows: Mapping) -> list[float]:
    return [-p / n for p, n in zip(rows["log_prob"], rows["tokens"], strict=True)]


def _sums(rows: Mapping) -> dict[str, float]:
    tokens = sum(rows["tokens"])
    return {
        "loss": -math.fsum(rows["log_prob"]) / tokens,
        "accuracy": sum(rows["correct"]) / tokens,
        "samples": len(rows["tokens"]),
        "tokens": tokens,
    }


def _options(measured_with: Mapping) -> dict:
    """Of the bootstrap. Raises ValueError for so many resamples that a check would not end."""
    options = {key: measured_with[key] for key in ("level", "resamples", "seed") if key in measured_with}
    if not 0 < options.get("resamples", 1) <= _MOST_RESAMPLES:
        raise ValueError("resamples")
    return options


def intervals(table: Mapping, measured_with: Mapping) -> dict[str, dict]:
    """Bootstrap intervals ``[low, high]`` of ``loss`` and ``accuracy`` of each set, over its records."""
    import numpy as np

    from fastunlearn.audit.bootstrap import interval

    def ratio(rows):  # of sums over records, as the aggregates are
        return float(rows[:, 0].sum() / rows[:, 1].sum())

    found: dict[str, dict] = {}
    for name, rows in table.items():
        tokens = np.array(rows["tokens"], dtype=np.float64)
        for key, values in (("loss", -np.array(rows["log_prob"])), ("accuracy", np.array(rows["correct"], float))):
            one = interval(ratio, np.stack([values, tokens], axis=1), **_options(measured_with))
            found.setdefault(name, {})[key] = [one.low, one.high]
    return found


def add_up(table: Mapping, stated: Mapping | None, metrics: Mapping, measured_with: Mapping) -> list[str]:
    """Where ``metrics`` (of the model after) and ``stated`` intervals are not what the table gives, each in words; []
    where all are.

    Checks loss, accuracy and counts of every set in the table, and the membership attack with its interval. Raises
    InvalidInputError for what is no table.
    """
    wrong = []
    try:
        for name, rows in table.items():
            said = metrics.get(name) or {}
            pairs = [(f"{name} {key}", said[key], found) for key, found in _sums(rows).items() if key in said]
            wrong += _differing(pairs)
        if metrics.get("membership") and {"forget", "held_out"} <= table.keys():
            wrong += _membership(table, metrics["membership"], measured_with)
        if stated is not None:
            wrong += _differing([
                (f"{name} {key} {end}", stated[name][key][index], value)
                for name, found in intervals(table, measured_with).items()
                for key, ends in found.items()
                for index, (end, value) in enumerate(zip(("low", "high"), ends, strict=True))
            ])  # fmt: skip
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise InvalidInputError(f"the table of records is damaged ({type(error).__name__})") from error
    return wrong


def _differing(pairs: list[tuple[str, object, float]]) -> list[str]:
    return [f"{what}: {visible(said)} is stated, the table of records gives {found:.6g}"
            for what, said, found in pairs if _far(said, found)]  # fmt: skip


def _membership(table: Mapping, stated: Mapping, measured_with: Mapping) -> list[str]:
    from fastunlearn.audit.bootstrap import interval
    from fastunlearn.audit.membership import auc

    options = _options(measured_with)
    if "level" in stated:
        options["level"] = stated["level"]
    found = interval(auc, _losses(table["forget"]), _losses(table["held_out"]), **options)
    pairs = (("auc", found.value), ("low", found.low), ("high", found.high))
    return _differing([(f"membership {key}", stated[key], value) for key, value in pairs if key in stated])
