"""``fastunlearn new``: a folder to start from, with example data and a configuration that explains itself."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from fastunlearn.data.people import generate_people
from fastunlearn.data.records import Record
from fastunlearn.production.config import NAME
from fastunlearn.production.documentation import starter_toml
from fastunlearn.storage.files import staged_folder

__all__ = ["new_folder"]

_GIVEN = {
    "model": {"folder": "original", "out": "after"},
    "data": {"forget": "forget.jsonl", "retain": "retain.jsonl", "held_out": "held_out.jsonl"},
    "pilot": {"max_kl_retain": 0.2, "width": 48, "forget": 20, "retain": 200, "held_out": 60, "steps": 300},
}

_READ_ME = """A place to try fastunlearn: everything in it is invented.

    fastunlearn train --data training.jsonl --out original --steps 300 --hidden-size 48   # a small model to try it on
    fastunlearn plan                     # what the run will take
    fastunlearn pilot                    # the whole procedure in small, with retrained references: go or no-go
    fastunlearn unlearn --config .       # the run; started again after a kill, it goes on where it was
    fastunlearn verify evidence          # what an auditor does

With requests that come in one by one:

    fastunlearn requests add --id R-1 --records forget.jsonl
    fastunlearn requests run
    fastunlearn requests status R-1

training.jsonl holds forget.jsonl and retain.jsonl. Put your own files and your own model in their places, and their
names into fastunlearn.toml, where every key is explained.
"""


def _lines(records: Iterable[Record]) -> str:
    rows = ({"prompt": one.prompt, "completion": one.completion} for one in records)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def new_folder(folder: str | os.PathLike, *, seed: int = 0) -> Path:
    """Makes ``folder`` with records about invented people, fastunlearn.toml and README.txt.

    Raises OutputError where it is there already or cannot be written; then nothing is left of it.
    """
    people = generate_people(24, 4, forget_people=2, held_out_people=15, canaries=0, seed=seed)
    files = {
        "forget.jsonl": _lines(people.forget), "retain.jsonl": _lines(people.retain),
        "held_out.jsonl": _lines(people.held_out), "training.jsonl": _lines(people.forget + people.retain),
        NAME: starter_toml(_GIVEN), "README.txt": _READ_ME,
    }  # fmt: skip
    with staged_folder(folder, advice="choose another name") as stage:
        for name, text in files.items():
            (stage / name).write_text(text, encoding="utf-8", newline="\n")
    return Path(folder)
