"""Figures of every record under the model after: what the aggregate metrics are sums of, so that a part of them can be
measured again and all of them be added up again. Numbers only; records are named by their place in the set."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fastunlearn.errors import InvalidInputError

from .canonical import visible

if TYPE_CHECKING:
    import torch

    from fastunlearn.data.records import Record

__all__ = ["SETS", "add_up", "bootstrap_options", "encoded_sets", "intervals", "record_table", "rows_of", "used"]

SETS = ("forget", "retain", "held_out")
_MOST_RESAMPLES = 1_000_000  # a folder may come from anybody: its check must end
_CLOSE = 1e-9  # sums of the same float64 numbers in another order
_LARGEST_LOSS = math.log(sys.float_info.max)  # whose perplexity is beyond a float, and stated as None


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


def used(requests: Mapping) -> dict[str, int]:
    """How many records of each set a run used, as requests.json says it. Raises where that is damaged (any error)."""
    others = {name: about["records"] for name, about in requests["sets"].items()}
    return {"forget": sum(len(one["records"]) for one in requests["requests"])} | others


def _far(stated: object, found: float) -> bool:
    if isinstance(stated, bool) or not isinstance(stated, (int, float)):
        return True
    return not math.isclose(stated, found, rel_tol=_CLOSE, abs_tol=_CLOSE)


def _losses(rows: Mapping) -> list[float]:
    return [-p / n for p, n in zip(rows["log_prob"], rows["tokens"], strict=True)]


def _sums(rows: Mapping) -> dict[str, float]:
    tokens = sum(rows["tokens"])
    if not len(rows["tokens"]) == len(rows["correct"]) == len(rows["log_prob"]):
        raise ValueError("columns of different lengths")
    return {
        "loss": -math.fsum(rows["log_prob"]) / tokens,
        "accuracy": sum(rows["correct"]) / tokens,
        "samples": len(rows["tokens"]),
        "tokens": tokens,
    }


def bootstrap_options(measured_with: Mapping) -> dict:
    """``level``, ``resamples``, ``seed``. Raises ValueError for so many resamples that a check would not end."""
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
            one = interval(ratio, np.stack([values, tokens], axis=1), **bootstrap_options(measured_with))
            found.setdefault(name, {})[key] = [one.low, one.high]
    return found


def add_up(
    table: Mapping, stated: Mapping | None, metrics: Mapping, measured_with: Mapping, requests: Mapping
) -> list[str]:
    """Where ``metrics`` (of the model after) and ``stated`` intervals are not what the table gives, each in words; []
    where all are.

    Checks that the table has a row for every record of ``requests`` (what requests.json holds), and that whatever is
    stated has its rows and the other way round: a set left out of the table would let anything be stated of it. Then
    loss, perplexity, accuracy and counts of every set, and the membership attack with its interval. Raises
    InvalidInputError for what is no table.
    """
    wrong = []
    try:
        records = used(requests)
        wrong += [f"the table has figures of {visible(name)}, which is no set" for name in table if name not in SETS]
        for name in SETS:
            wrong += _of_set(name, table.get(name), metrics.get(name), records.get(name, 0))
        wrong += _membership(table, metrics.get("membership"), measured_with)
        if stated is not None:
            wrong += [f"intervals of {visible(name)} are stated, the table of records has no figures of it"
                      for name in stated if name not in table]  # fmt: skip
            wrong += _differing([
                (f"{name} {key} {end}", stated[name][key][index], value)
                for name, found in intervals({n: table[n] for n in SETS if n in table}, measured_with).items()
                for key, ends in found.items()
                for index, (end, value) in enumerate(zip(("low", "high"), ends, strict=True))
            ])  # fmt: skip
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise InvalidInputError(f"the table of records is damaged ({type(error).__name__})") from error
    return wrong


def _of_set(name: str, rows: Mapping | None, said: Mapping | None, records: int) -> list[str]:
    if rows is None and said is not None:
        return [f"{name} is stated, the table of records has no figures of it"]
    if rows is None:
        return [f"the table has no figures of {name}, of which the run used {records} records"] if records else []
    count = len(rows["tokens"])
    wrong = [f"the table has figures of {count} {name} records, the run used {records}"] if count != records else []
    if said is None:
        return [*wrong, f"the table of records has figures of {name}, nothing is stated of it"]
    sums = _sums(rows)
    wrong += _differing([(f"{name} {key}", said.get(key), found) for key, found in sums.items()])
    perplexity = math.exp(sums["loss"]) if sums["loss"] < _LARGEST_LOSS else math.inf
    if said.get("perplexity") is None and perplexity == math.inf:
        return wrong  # as measure() states it
    return wrong + _differing([(f"{name} perplexity", said.get("perplexity"), perplexity)])


def _differing(pairs: list[tuple[str, object, float]]) -> list[str]:
    return [f"{what}: {visible(said)} is stated, the table of records gives {found:.6g}"
            for what, said, found in pairs if _far(said, found)]  # fmt: skip


def _membership(table: Mapping, stated: Mapping | None, measured_with: Mapping) -> list[str]:
    there = {"forget", "held_out"} <= table.keys()
    if stated is None:
        return ["membership is not stated, the table of records has both of its sets"] if there else []
    if not there:
        return ["membership is stated, the table of records lacks one of its two sets"]
    from fastunlearn.audit.bootstrap import interval
    from fastunlearn.audit.membership import auc

    options = bootstrap_options(measured_with)
    if "level" in stated:
        options["level"] = stated["level"]
    found = interval(auc, _losses(table["forget"]), _losses(table["held_out"]), **options)
    pairs = (("auc", found.value), ("low", found.low), ("high", found.high))
    return _differing([(f"membership {key}", stated.get(key), value) for key, value in pairs])
