"""Question answering about authors: TOFU's files (Maini et al. 2024), or generated people asked about.

Of TOFU's authors, twenty questions each, ``forget_people`` are forgotten, ``held_out_people`` never learnt. Fresh are
questions on real authors, which no model here has learnt.
"""

from __future__ import annotations

import random
from pathlib import Path

from fastunlearn.data import generate_people, load_records
from fastunlearn.data.people import MAX_FACTS
from fastunlearn.data.records import Record
from fastunlearn.errors import InvalidInputError

from ._prose import sentence
from ._set import EvaluationSet, shuffled, take

__all__ = ["FILES", "KIND", "NAME", "make"]

NAME, KIND = "questions", "question answering"
FILES = ("tofu_forget.jsonl", "tofu_retain.jsonl", "tofu_real_authors_perturbed.json")
QUESTIONS = 20  # that TOFU asks about each author
_ASKED = "Question: what follows? {prompt}\nAnswer:"


def _tofu(folder: Path, seed: int, counts: dict[str, int]) -> dict[str, list[Record]]:
    records = load_records(folder / FILES[0]) + load_records(folder / FILES[1])
    if len(records) % QUESTIONS:
        raise InvalidInputError(f"folder: the files must hold {QUESTIONS} questions an author, one after the other")
    authors = [records[i : i + QUESTIONS] for i in range(0, len(records), QUESTIONS)]
    drawn = take(shuffled(random.Random(f"{seed} authors"), authors), counts, f"authors of {NAME}")
    return {name: [record for author in some for record in author] for name, some in drawn.items()}


def _generated(seed: int, counts: dict[str, int]) -> dict[str, list[Record]]:
    people = generate_people(
        counts["forget"] + counts["retain"], MAX_FACTS, forget_people=counts["forget"],
        held_out_people=counts["held_out"], canaries=0, seed=seed,
    )  # fmt: skip
    return {
        name: [Record(_ASKED.format(prompt=record.prompt), record.completion) for record in getattr(people, name)]
        for name in counts
    }


def _other_questions(seed: int, count: int) -> list[Record]:
    """How a sentence ends that is about nobody."""
    stream, found = random.Random(f"{seed} fresh"), {}
    while len(found) < count:
        start, _, end = sentence(stream).rpartition(" ")
        found[start] = Record(_ASKED.format(prompt=start), f" {end}")
    return list(found.values())


def make(
    folder: Path | None, seed: int, *, forget_people: int = 2, retain_people: int = 12, held_out_people: int = 3,
    fresh: int = 40,
) -> EvaluationSet:  # fmt: skip
    """So many people in each part, and ``fresh`` other questions."""
    counts = {"forget": forget_people, "retain": retain_people, "held_out": held_out_people}
    if folder is not None:
        sets = _tofu(folder, seed, counts)
        others = shuffled(random.Random(f"{seed} fresh"), load_records(folder / FILES[2]))
        sets |= take(others, {"fresh": fresh}, f"questions on real authors of {NAME}")
        return EvaluationSet(name=NAME, kind=KIND, source=", ".join(FILES), **sets, context=192)
    sets = _generated(seed, counts)
    sets["fresh"] = _other_questions(seed, fresh)
    return EvaluationSet(name=NAME, kind=KIND, source="generated", **sets, tokenizer="words", context=48)
