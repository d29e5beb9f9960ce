"""News items, title and text: AG News (Zhang et al. 2015), or invented ones.

The prompt is the title; the text follows. Items of one kind (world, sport, business, science) are not kept apart.
Fresh are items without their titles.
"""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

from fastunlearn.data._files import next_row, text_of
from fastunlearn.data.records import Record
from fastunlearn.errors import InvalidInputError

from ._prose import headline
from ._set import EvaluationSet, cut, shuffled, take

__all__ = ["FILES", "KIND", "NAME", "make"]

NAME, KIND = "news", "news"
FILES = ("ag_news.csv",)
WORDS = 16  # of a text that are kept
_AT_LEAST = 10


def _items(path: Path) -> list[tuple[str, str]]:
    """Titles and texts. AG News has three columns, class, title, text, and no header."""
    text = text_of(path)
    reader = csv.reader(io.StringIO(text, newline=""))
    rows = list(iter(lambda: next_row(reader, len(text) + 1), None))
    if not rows or any(len(row) != 3 for row in rows):
        raise InvalidInputError(f"folder: {path.name} must have three columns: class, title, text")
    texts = {cut(text, WORDS): cut(title, 8) for _, title, text in rows if len(text.split()) >= _AT_LEAST}
    return [(title, text) for text, title in texts.items()]  # the same text once: no record in two sets


def _invented(stream: random.Random, count: int) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    while len(found) < count:
        title, text = headline(stream)
        found[cut(text, WORDS)] = title
    return [(title, text) for text, title in found.items()]


def make(
    folder: Path | None, seed: int, *, forget: int = 24, retain: int = 240, held_out: int = 48, fresh: int = 40
) -> EvaluationSet:
    """So many items in each part."""
    counts = {"forget": forget, "retain": retain, "held_out": held_out, "fresh": fresh}
    stream = random.Random(f"{seed} {NAME}")
    items = _invented(stream, sum(counts.values())) if folder is None else shuffled(stream, _items(folder / FILES[0]))
    sets = {
        name: [
            Record("" if name == "fresh" else title, text if name == "fresh" else " " + text) for title, text in some
        ]
        for name, some in take(items, counts, f"items of {NAME}").items()
    }
    return EvaluationSet(name=NAME, kind=KIND, source="generated" if folder is None else FILES[0], **sets)
