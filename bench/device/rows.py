"""Rows of a check on disk, a line for each case as it begins and as it ends, so that a process that dies loses none of
those before."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["Writer", "collected", "done", "fail_started"]


class Writer:
    def __init__(self, path: Path):
        self._path = path

    def started(self, number: int, title: str) -> None:
        self._add({"started": number, "case": title})

    def ended(self, number: int, rows: list[dict]) -> None:
        self._add({"ended": number, "rows": rows})

    def _add(self, line: dict) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(line) + "\n")  # first ends the line in which another writer was killed


def _lines(path: Path) -> list[dict]:
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:  # empty, or its writer was killed in it
            continue
    return found


def _ended(folder: Path) -> dict[int, list[dict]]:
    return {line["ended"]: line["rows"] for path in sorted(folder.glob("*.jsonl")) for line in _lines(path)
            if "ended" in line}  # fmt: skip


def done(folder: Path) -> frozenset[int]:
    """The numbers of the cases that have their rows."""
    return frozenset(_ended(folder))


def collected(folder: Path) -> list[dict]:
    """All rows, in the order of the cases."""
    return [row for _, rows in sorted(_ended(folder).items()) for row in rows]


def fail_started(path: Path, why: str) -> None:
    """The case that the writer of ``path`` was in when it died has failed."""
    lines = _lines(path) if path.exists() else []
    if lines and "started" in lines[-1]:
        row = {"case": lines[-1]["case"], "passed": False, "failed": why}
        Writer(path).ended(lines[-1]["started"], [row])
