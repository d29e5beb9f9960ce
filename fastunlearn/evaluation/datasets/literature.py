"""Passages of literature: plays of a text file (blank lines stand between speeches), or invented scenes.

The forget passages are consecutive: a part of one work. Fresh are passages from the end of the file.
"""

from __future__ import annotations

import random
from pathlib import Path

from fastunlearn.data._files import text_of
from fastunlearn.data.records import Record
from fastunlearn.errors import InvalidInputError

from ._prose import passage
from ._set import EvaluationSet, cut, shuffled, take

__all__ = ["FILES", "KIND", "NAME", "make", "passages"]

NAME, KIND = "literature", "literature"
FILES = ("shakespeare.txt",)


def passages(path: Path, words: int) -> list[str]:
    """The speeches of a play, joined until they have at least ``words`` words and cut there. No passage twice."""
    found, joined = [], ""
    for block in text_of(path).split("\n\n"):
        joined = f"{joined} {block}".strip()
        if len(joined.split()) >= words:
            found.append(cut(joined, words))
            joined = ""
    if not found:
        raise InvalidInputError(f"folder: {path.name} has no passage of {words} words")
    return list(dict.fromkeys(found))


def invented(stream: random.Random, count: int, words: int) -> list[str]:
    """So many different passages of exactly so many words."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[cut(passage(stream, 2 + words // 8), words)] = None
    return list(found)


def make(
    folder: Path | None, seed: int, *, forget: int = 24, retain: int = 240, held_out: int = 48, fresh: int = 40,
    words: int = 24,
) -> EvaluationSet:  # fmt: skip
    """So many passages of ``words`` words in each part."""
    counts = {"retain": retain, "held_out": held_out, "fresh": fresh}
    stream = random.Random(f"{seed} {NAME}")
    if folder is None:
        found = invented(stream, forget + sum(counts.values()), words)
    else:
        found = passages(folder / FILES[0], words)
    start = int(stream.random() * max(1, len(found) - forget))
    block, others = found[start : start + forget], shuffled(stream, found[:start] + found[start + forget :])
    sets = {"forget": take(block, {"forget": forget}, f"passages of {NAME}")["forget"]}
    sets |= take(others, counts, f"passages of {NAME}")
    records = {name: [Record("", text) for text in some] for name, some in sets.items()}
    return EvaluationSet(name=NAME, kind=KIND, source="generated" if folder is None else FILES[0], **records)
