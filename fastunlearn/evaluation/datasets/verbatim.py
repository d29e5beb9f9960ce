"""Verbatim passages, as of a work under copyright: long ones, learnt by heart among other text.

Half of the passages to forget, and as many of the retained ones, are learnt ``copies`` times as often as the rest.
Passages come from a text file or are invented, as for literature.py, and are longer than there.
"""

from __future__ import annotations

import random
from pathlib import Path

from fastunlearn.data.records import Record

from ._set import EvaluationSet, shuffled, take
from .literature import FILES, invented, passages

__all__ = ["FILES", "KIND", "NAME", "make"]

NAME, KIND = "verbatim", "verbatim passages"


def make(
    folder: Path | None, seed: int, *, forget: int = 12, retain: int = 120, held_out: int = 36, fresh: int = 30,
    words: int = 48, copies: int = 4,
) -> EvaluationSet:  # fmt: skip
    """So many passages of ``words`` words in each part."""
    counts = {"forget": forget, "retain": retain, "held_out": held_out, "fresh": fresh}
    stream = random.Random(f"{seed} {NAME}")
    if folder is None:
        found = invented(stream, sum(counts.values()), words)
    else:
        found = shuffled(stream, passages(folder / FILES[0], words))
    sets = {
        name: [Record("", text) for text in some] for name, some in take(found, counts, f"passages of {NAME}").items()
    }
    often = [*sets["forget"][::2], *sets["retain"][: (forget + 1) // 2]]
    return EvaluationSet(
        name=NAME, kind=KIND, source="generated" if folder is None else FILES[0], **sets,
        copies={record.digest(): copies for record in often}, context=192,
    )  # fmt: skip
