"""The metrics of the model after, measured again on records that the reader has."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastunlearn.errors import FastUnlearnError

from .canonical import visible
from .reading import Reading, shortened
from .result import Check
from .table import SETS, bootstrap_options, encoded_sets, rows_of

if TYPE_CHECKING:
    from fastunlearn.data.records import Record

__all__ = ["SHARE", "TOLERANCE", "metrics"]

#: How far a measurement made again may lie from the stated one: in nats per record, relative to 1 + |value|, by the
#: type of the weights. Other kernels, batches and machines round differently.
TOLERANCE = {"F64": 1e-5, "F32": 1e-3, "BF16": 5e-2, "F16": 2e-2}
#: How far a share (an accuracy, an AUC and the ends of its interval) may lie from the stated one: ties may differ.
SHARE = 0.01


def _tolerance(folder: str | Path) -> float:
    from safetensors import safe_open

    kinds = set()
    for path in Path(folder).glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            kinds |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    return max((TOLERANCE.get(kind, 0) for kind in kinds), default=0) or TOLERANCE["F32"]


def _draw(count: int, sample: int | None, seed: int, name: str) -> list[int]:
    if sample is None or sample >= count:
        return list(range(count))
    return sorted(random.Random(f"{seed} {name}").sample(range(count), sample))


def metrics(
    reading: Reading, folder: str | Path, given: Mapping[str, Sequence[Record]],
    places: Mapping[str, Sequence[int]], *, sample: int | None, seed: int,
    reference: str | Path | None = None, device: str = "cpu", trust_remote_code: bool = False,
) -> Check:  # fmt: skip
    """Measures ``sample`` records of each given set again and compares them with the folder's figures. None: all
    records, and the aggregates of whole sets; with ``reference`` (a folder) the KL to that model. ``places``: where a
    set's records stand in the run; a set without them must be whole and in order."""
    found = reading.document("metrics.json")
    table, options = found.get("table"), found.get("measured_with") or {}
    if not isinstance(table, dict):
        return Check("metrics", False, "not measured again: the folder has no figures of single records")
    sets = {name: given[name] for name in SETS if given.get(name)}
    missing = [name for name in sets if name not in table]
    if missing or not sets:
        which = f" of {', '.join(missing)}, which was given" if missing else ": no records were given"
        return Check("metrics", False, f"not measured again: the folder has no figures of single records{which}")
    try:
        from fastunlearn.storage import load_model

        trust = {"device": device, "trust_remote_code": trust_remote_code}
        network, tokenizer = load_model(folder, **trust)
        other = None if reference is None or sample is not None else load_model(reference, **trust)[0]
        again = _Again(network, tokenizer, options, sets, _tolerance(folder))
        wrong, what = again.rows(table, places, sample, seed)
        if sample is None and not wrong:
            wrong, more = again.aggregates(found.get("after") or {}, other)
            what += more
    except (FastUnlearnError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        return Check("metrics", False, f"the metrics could not be measured again: {visible(error)}")
    if wrong:
        return Check("metrics", False, f"measured again on {what}: {shortened(wrong)}")
    return Check("metrics", True, f"measured again on {what} are as stated")


class _Again:
    """A model with the records to measure it on."""

    def __init__(self, network, tokenizer, options: Mapping, sets: Mapping[str, Sequence[Record]], limit: float):
        from fastunlearn.unlearn.request import pad_token

        self._network, self._tokenizer, self._options, self._limit = network, tokenizer, options, limit
        encoding = {key: options[key] for key in ("max_length", "truncate") if key in options}
        self._encoded = encoded_sets(network, tokenizer, sets, **encoding)
        self._pad = pad_token(network, tokenizer)
        self._whole: dict[str, list] = {}  # the sets of which every record was given

    def rows(self, table: Mapping, places: Mapping, sample: int | None, seed: int) -> tuple[list[str], str]:
        """What is wrong with the figures of single records, and which were looked at."""
        wrong, counts = [], []
        for name, samples in self._encoded.items():
            rows = table[name]
            whole = len(samples) == len(rows["tokens"])
            if not whole and name not in places:
                wrong.append(f"{len(samples)} {name} records were given, there are figures of {len(rows['tokens'])}")
                continue
            of_run = places.get(name, range(len(samples)))
            self._whole.update({name: samples} if whole else {})
            drawn = _draw(len(samples), sample, seed, name)
            batches = {"pad_token_id": self._pad, "batch_size": self._options.get("batch_size", 64)}
            again = rows_of(self._network, [samples[i] for i in drawn], **batches)
            counts.append(f"{len(drawn)} of {len(rows['tokens'])} {name}")
            others = []  # places with another number of right tokens
            for index, one in enumerate(drawn):
                stated = {key: rows[key][of_run[one]] for key in again}
                wrong += _row(name, of_run[one], stated, {key: again[key][index] for key in again}, self._limit)
                others += [(one, again["correct"][index])] if stated["correct"] != again["correct"][index] else []
            wrong += self._right(name, others, of_run, rows["correct"], batches)
        return wrong, f"{', '.join(counts)} records (drawn by seed {seed}): loss and accuracy of each"

    def _right(self, name: str, others: list[tuple[int, int]], of_run, stated: Sequence, batches: dict) -> list[str]:
        """What is wrong with the numbers of right tokens that are not those found here: rounding explains a token that
        is as likely as another, and no more."""
        if not others:
            return []
        from .ties import possible_counts

        samples = [self._encoded[name][one] for one, _ in others]
        possible = possible_counts(self._network, samples, limit=self._limit, **batches)
        return [f"record {of_run[one] + 1} of {name} has {found} tokens right, {stated[of_run[one]]} are stated"
                for (one, found), (fewest, most) in zip(others, possible, strict=True)
                if not fewest <= stated[of_run[one]] <= most]  # fmt: skip

    def aggregates(self, stated: Mapping, reference) -> tuple[list[str], str]:
        """What is wrong with the aggregates of the sets that were given whole, and which were looked at."""
        found, wrong, looked = self._measure(reference), [], []
        for name in (*SETS, *(f"kl_{name}" for name in SETS), "membership"):
            if found.get(name) is None:
                continue
            if stated.get(name) is None:
                wrong.append(f"{name} can be measured and is not stated")
                continue
            looked.append(name)
            pairs = {"": (stated[name], found[name])} if not isinstance(found[name], dict) else {
                f" {key}": (stated[name][key], value) for key, value in found[name].items()
                if key in stated[name] and key != "perplexity"  # the loss again, with its error enlarged
            }  # fmt: skip
            wrong += [f"{name}{key} is {now}, {then} is stated" for key, (then, now) in pairs.items()
                      if _far(key.strip(), then, now, self._limit)]  # fmt: skip
        return wrong, f", and the aggregates ({', '.join(looked)})" if looked else ""

    def _measure(self, reference) -> dict:
        """The aggregates of the sets of which every record was given."""
        from fastunlearn.audit.measure import measure

        options = bootstrap_options(self._options)
        options |= {"reference": reference, "pad_token_id": self._pad}
        options |= {key: self._options[key] for key in ("batch_size",) if key in self._options}
        if "forget" in self._whole:
            return measure(self._network, **self._whole, **options)
        found = {}
        for name, samples in self._whole.items():  # measure() wants a set to forget: each takes that place in turn
            one = measure(self._network, forget=samples, **options)
            found |= {name: one["forget"], f"kl_{name}": one["kl_forget"]}
        return found


def _far(key: str, stated: object, found: object, limit: float) -> bool:
    if not isinstance(found, (int, float)) or isinstance(found, bool):
        return stated != found
    if isinstance(stated, bool) or not isinstance(stated, (int, float)):
        return True
    if key in ("accuracy", "auc", "low", "high"):
        return not abs(stated - found) <= SHARE
    return not abs(stated - found) <= limit * (1 + abs(found))


def _row(name: str, place: int, stated: dict, found: dict, limit: float) -> list[str]:
    if stated["tokens"] != found["tokens"]:
        return [f"record {place + 1} of {name} has {found['tokens']} target tokens, {stated['tokens']} are stated"]
    far = abs(stated["log_prob"] - found["log_prob"]) / (1 + abs(found["log_prob"]))
    if not math.isfinite(far) or far > limit:
        return [f"record {place + 1} of {name} has a loss of {-found['log_prob'] / found['tokens']:.4f}, "
                f"{-stated['log_prob'] / stated['tokens']:.4f} is stated"]  # fmt: skip
    return []
