"""What a data set hands over, and the drawing and cutting that they share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from fastunlearn.data.people import Canary
from fastunlearn.data.records import Record
from fastunlearn.errors import InvalidInputError

__all__ = ["EvaluationSet", "cut", "pick", "shuffled", "take"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """``forget`` and ``retain``: learnt by the original; the retrained model learns ``retain`` alone. ``held_out``:
    like the forget records, never learnt. ``fresh``: never learnt and about other things, to see what else changes.
    ``copies``: how often a record is learnt, by its text's digest (default once). ``canaries``: secrets in forget or
    retain records with all that they could have been. ``source``: "generated" or the names of the files.
    ``tokenizer``, ``vocabulary``, ``context``: of the model that suits the data. ``people``: for each forget record
    whose it is, where records belong to somebody."""

    name: str
    kind: str
    source: str
    forget: list[Record]
    retain: list[Record]
    held_out: list[Record]
    fresh: list[Record]
    copies: dict[str, int] = field(default_factory=dict)
    canaries: list[Canary] = field(default_factory=list)
    tokenizer: str = "bpe"
    vocabulary: int = 1500
    context: int = 160

    @property
    def sets(self) -> dict[str, list[Record]]:
        """The four by name."""
        return {name: getattr(self, name) for name in ("forget", "retain", "held_out", "fresh")}

    def repeated(self, records: Sequence[Record]) -> list[Record]:
        """The records as often as they are learnt."""
        return [record for record in records for _ in range(self.copies.get(record.digest(), 1))]

    def texts(self) -> list[str]:
        """All texts: the tokenizer knows every word of them."""
        return [record.text for records in self.sets.values() for record in records]


def pick(stream: random.Random, choices: Sequence[T]) -> T:
    """One of them. (random() is the one method whose sequence Python promises to keep across versions.)"""
    return choices[int(stream.random() * len(choices))]


def shuffled(stream: random.Random, items: Sequence[T]) -> list[T]:
    """The items in a random order."""
    keys = [stream.random() for _ in items]
    return [items[i] for i in sorted(range(len(items)), key=keys.__getitem__)]


def take(items: Sequence[T], counts: dict[str, int], what: str) -> dict[str, list[T]]:
    """Consecutive runs of the items, of these lengths. Raises InvalidInputError where a length is below 1 or there
    are too few items."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InvalidInputError(f"{name} must be an integer of at least 1, got {count!r}")
    if sum(counts.values()) > len(items):
        raise InvalidInputError(f"{what}: {sum(counts.values())} are asked for, and there are {len(items)}")
    found, start = {}, 0
    for name, count in counts.items():
        found[name] = list(items[start : start + count])
        start += count
    return found


def cut(text: str, words: int) -> str:
    """The first ``words`` words of the text, its white space made single spaces."""
    return " ".join(text.split()[:words])
