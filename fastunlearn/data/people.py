"""Invented people with facts to learn and to forget, and canaries to measure what is left.

The data are a function of the arguments alone: the same seed gives the same records on every machine and in
every process. Each person has a last name that nobody else has, one token of a word-level tokenizer: it is
the handle by which a small model finds the person, and without it memorising takes many times longer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fastunlearn.data._facts import ACCESS_CODE, FACTS, FIRST_NAMES, SYLLABLES
from fastunlearn.data.records import Record
from fastunlearn.errors import InvalidInputError

__all__ = ["MAX_CANARY_DIGITS", "MAX_FACTS", "MAX_PEOPLE", "Canary", "PeopleData", "generate_people",
           "make_names"]  # fmt: skip

MAX_FACTS = len(FACTS)
#: Two-syllable last names: a third of all there are, so that drawing a new one stays quick.
MAX_PEOPLE = (len(SYLLABLES[0]) * len(SYLLABLES[1])) ** 2 // 3
MAX_CANARY_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Canary:
    """A random secret in one record (Carlini et al. 2019, "The Secret Sharer").

    ``secret`` is the record's completion (such as " 4 8 1"). ``candidates`` is the whole space that it was
    drawn from, all ``10 ** digits`` completions in numerical order, the secret among them.
    """

    record: Record
    secret: str
    candidates: list[str]


@dataclass(frozen=True, slots=True)
class PeopleData:
    """Generated records. ``forget`` and ``retain`` are to be learnt, each with the facts of its people and
    then its canaries' records; ``held_out`` is about further people that the model never sees. ``canaries``:
    those of forget, then those of retain."""

    forget: list[Record]
    retain: list[Record]
    held_out: list[Record]
    canaries: list[Canary]

    @property
    def forget_canaries(self) -> list[Canary]:
        """The canaries whose record is in ``forget``."""
        among = set(self.forget)
        return [canary for canary in self.canaries if canary.record in among]

    @property
    def retain_canaries(self) -> list[Canary]:
        """The canaries whose record is in ``retain``."""
        among = set(self.retain)
        return [canary for canary in self.canaries if canary.record in among]

    def texts(self) -> Iterator[str]:
        """All texts, the held-out ones too: train the tokenizer on these, so that it knows every name."""
        for records in (self.forget, self.retain, self.held_out):
            for record in records:
                yield record.text


T = TypeVar("T")


def _pick(stream: random.Random, choices: Sequence[T]) -> T:
    # random() is the one method whose sequence Python promises to keep across versions.
    return choices[int(stream.random() * len(choices))]


def make_names(stream: random.Random, count: int) -> list[str]:
    """``count`` full names, no two with the same last name, no last name a word that is used elsewhere."""
    taken = set(FIRST_NAMES).union(*(fact.values for fact in FACTS))
    taken.update(word for fact in FACTS for prompt in fact.prompts for word in prompt.split())
    onsets, rhymes = SYLLABLES
    names = []
    while len(names) < count:
        last = "".join(_pick(stream, part) for part in (onsets, rhymes, onsets, rhymes)).capitalize()
        if last not in taken:
            taken.add(last)
            names.append(f"{_pick(stream, FIRST_NAMES)} {last}")
    return names


def _records(stream: random.Random, names: Sequence[str], facts: int) -> list[Record]:
    """All facts of each person, each in one sentence of those that the fact has."""
    return [
        Record(_pick(stream, fact.prompts).format(person=name), " " + _pick(stream, fact.values))
        for name in names
        for fact in FACTS[:facts]
    ]


def _canaries(stream: random.Random, names: Sequence[str], candidates: list[str]) -> list[Canary]:
    """One canary for each name."""
    found = []
    for name in names:
        secret = _pick(stream, candidates)
        found.append(Canary(Record(ACCESS_CODE.format(person=name), secret), secret, candidates))
    return found


def _check(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidInputError(f"{name} must be an integer from {least} to {most}, got {value!r}")


def generate_people(
    people: int = 200,
    facts: int = 6,
    *,
    forget_people: int = 10,
    held_out_people: int = 50,
    canaries: int = 6,
    canary_digits: int = 3,
    seed: int = 0,
) -> PeopleData:
    """Records about invented people, to train a small model on and to make it forget some of.

    ``people``: how many the model learns; the first ``forget_people`` of them are to be forgotten.
    ``facts``: records per person (at most MAX_FACTS). ``held_out_people``: further people, with the same
    facts in the same sentences, that no model is trained on. ``canaries``: records such as "The access code
    of Mira Tavon is 4 8 1", one to a person at most; half of them (the larger half of an odd number)
    belongs to people to forget, the rest to people to retain. ``seed``: any integer.

    A record has one sentence of about ten words; its completion is one word out of twelve (or
    ``canary_digits`` digits that stand apart). The trained people do not change with the number of
    held-out ones.

    Raises InvalidInputError for a number out of range.
    """
    _check("people", people, 2, MAX_PEOPLE)
    _check("facts", facts, 1, MAX_FACTS)
    _check("forget_people", forget_people, 1, people - 1)
    _check("held_out_people", held_out_people, 0, MAX_PEOPLE - people)
    _check("canaries", canaries, 0, 2 * min(forget_people, people - forget_people))
    _check("canary_digits", canary_digits, 1, MAX_CANARY_DIGITS)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InvalidInputError(f"seed must be an integer, got {seed!r}")

    # One stream for each part (a string seed is hashed with SHA-512, the same in every process).
    streams = {part: random.Random(f"{seed} {part}") for part in ("names", "facts", "held out", "canaries")}
    names = make_names(streams["names"], people + held_out_people)
    known, unseen = names[:people], names[people:]
    records = _records(streams["facts"], known, facts)
    candidates = [
        "".join(f" {digit}" for digit in f"{code:0{canary_digits}d}") for code in range(10**canary_digits)
    ]
    to_forget = canaries - canaries // 2
    bearers = known[:to_forget] + known[forget_people : forget_people + canaries // 2]
    drawn = _canaries(streams["canaries"], bearers, candidates)
    return PeopleData(
        forget=records[: forget_people * facts] + [canary.record for canary in drawn[:to_forget]],
        retain=records[forget_people * facts :] + [canary.record for canary in drawn[to_forget:]],
        held_out=_records(streams["held out"], unseen, facts),
        canaries=drawn,
    )
