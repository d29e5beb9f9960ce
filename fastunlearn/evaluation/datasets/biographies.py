"""Biographies of invented people, a few sentences each, as free text. Always generated.

Fresh are sentences of a kind that no biography has.
"""

from __future__ import annotations

import random
from pathlib import Path

from fastunlearn.data import generate_people
from fastunlearn.data.records import Record

from ._prose import passage
from ._set import EvaluationSet

__all__ = ["FILES", "KIND", "NAME", "make"]

NAME, KIND = "biographies", "biographies"
FILES = ()
FACTS = 5


def make(
    folder: Path | None, seed: int, *, forget: int = 20, retain: int = 240, held_out: int = 48, fresh: int = 40
) -> EvaluationSet:
    """So many people in each part, and ``fresh`` other texts."""
    people = generate_people(
        forget + retain, FACTS, forget_people=forget, held_out_people=held_out, canaries=0, seed=seed
    )
    sets = {}
    for name in ("forget", "retain", "held_out"):
        told = [record.text + "." for record in getattr(people, name)]
        sets[name] = [Record("", " ".join(told[i : i + FACTS])) for i in range(0, len(told), FACTS)]
    stream = random.Random(f"{seed} fresh of {NAME}")
    sets["fresh"] = [Record("", passage(stream, 3)) for _ in range(fresh)]
    return EvaluationSet(name=NAME, kind=KIND, source="generated", **sets, tokenizer="words", context=80)
