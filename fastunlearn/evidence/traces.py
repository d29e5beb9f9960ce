"""Is anything of the records' text left in these files?

A record is searched for by windows of its text and of its token numbers, in the ways they are usually written. A
fragment of at least ``WINDOW + STRIDE`` characters is found for certain, in UTF-8, UTF-16, as JSON or HTML escapes, and
so is one of ``2 * TOKENS`` token numbers as an array of int64, int32 or uint16 or as a JSON list. What is compressed,
encrypted or rewritten is not found, and neither are records shorter than ``LEAST`` characters.
"""

from __future__ import annotations

import html
import json
import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastunlearn.errors import InvalidInputError

from .canonical import visible, walk

if TYPE_CHECKING:
    from fastunlearn.data.records import Record

__all__ = ["LEAST", "Trace", "find_traces"]

WINDOW, STRIDE = 24, 8
LEAST = 12
TOKENS = 8
_WORD = 8  # bytes by which a place is first told from others
_BITS = 20  # of the table of first words
_PART = 1 << 24
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Trace:
    """Something of record number ``record`` (from 0) at byte ``offset`` of the file ``path``; ``kind``: "text" or
    "tokens". Does not quote it."""

    path: str
    offset: int
    record: int
    kind: str

    def __str__(self) -> str:
        return f"{visible(self.path)}, byte {self.offset}: {self.kind} of record {self.record + 1}"


def _windows(text: str) -> set[str]:
    if len(text) < LEAST:
        return set()
    last = max(0, len(text) - WINDOW)
    return {text[start : start + WINDOW] for start in {*range(0, last, STRIDE), last}}


def _spellings(window: str) -> Iterator[bytes]:
    yield window.encode("utf-8")
    yield window.encode("utf-16-le")
    yield window.encode("utf-16-be")
    yield json.dumps(window)[1:-1].encode("ascii")
    yield json.dumps(window, ensure_ascii=False)[1:-1].encode("utf-8")
    yield html.escape(window).encode("utf-8")
    yield html.escape(window, quote=False).encode("utf-8")


def _token_spellings(ids: Sequence[int]) -> Iterator[bytes]:
    for kind in ("<i8", "<i4", "<u2"):
        if max(ids) <= np.iinfo(kind).max:
            yield np.array(ids, dtype=kind).tobytes()
    for comma in (",", ", "):
        yield comma.join(map(str, ids)).encode("ascii")


def _needles(records: Sequence[Record], tokenizer, known: Iterable[bytes]) -> dict[bytes, tuple[int, str]]:
    """Every spelling of every window, with the first record that has it. A window that ``known`` holds in one spelling
    is left out in all."""
    pieces: dict[tuple[bytes, ...], tuple[int, str]] = {}
    for number, record in enumerate(records):
        for part in {record.text, record.text.strip(), record.completion.strip()}:
            for window in _windows(part):
                pieces.setdefault(tuple(_spellings(window)), (number, "text"))
        if tokenizer is not None:
            ids = tokenizer(record.text, add_special_tokens=False)["input_ids"]
            last = len(ids) - TOKENS
            for start in {*range(0, last + 1, TOKENS), last} if last >= 0 else ():
                pieces.setdefault(tuple(_token_spellings(ids[start : start + TOKENS])), (number, "tokens"))
    told = _told(pieces, known)
    found: dict[bytes, tuple[int, str]] = {}
    for number, (spellings, where) in enumerate(pieces.items()):
        for needle in spellings if number not in told else ():
            if len(needle) >= _WORD:
                found.setdefault(needle, where)
    return found


def _told(pieces: Iterable[tuple[bytes, ...]], known: Iterable[bytes]) -> set[int]:
    """The numbers of the pieces that a text of ``known`` holds, in whatever spelling."""
    owners: dict[bytes, list[int]] = {}
    for number, spellings in enumerate(pieces):
        for needle in spellings:
            if len(needle) >= _WORD:
                owners.setdefault(needle, []).append(number)
    needles = list(owners)
    text = b"\n\0\n".join(known)  # one pass: what is done for each text costs more than many small ones are long
    search = _Search({needle: (place, "") for place, needle in enumerate(needles)})
    hit = {place for _, place, _ in search.places(text)} if text and needles else set()
    return {number for place in hit for number in owners[needles[place]]}


class _Search:
    """All needles at once: a place is looked at closely where its first eight bytes are those of a needle."""

    def __init__(self, needles: dict[bytes, tuple[int, str]]):
        self._by_word: dict[int, list[tuple[bytes, tuple[int, str]]]] = {}
        for needle, where in needles.items():
            word = int.from_bytes(needle[:_WORD], "little")
            self._by_word.setdefault(word, []).append((needle, where))
        self._words = np.array(sorted(self._by_word), dtype=np.uint64)
        self._maybe = np.zeros(1 << _BITS, dtype=bool)
        self._maybe[self._hash(self._words)] = True
        self._longest = max(map(len, needles), default=0)

    @staticmethod
    def _hash(words: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return (words * _MULTIPLIER) >> np.uint64(64 - _BITS)

    def places(self, data) -> Iterator[tuple[int, int, str]]:
        """Offset, record and kind of every needle in ``data`` (bytes or a mapped file)."""
        size = len(data)
        for start in range(0, size, _PART):
            part = bytes(data[start : min(size, start + _PART + self._longest)])
            for shift in range(min(_WORD, len(part) - _WORD + 1)):
                words = np.frombuffer(part, dtype="<u8", count=(len(part) - shift) // _WORD, offset=shift)
                hits = np.flatnonzero(self._maybe[self._hash(words)])
                hits = hits[np.isin(words[hits], self._words)]
                for hit in hits.tolist():
                    offset = hit * _WORD + shift
                    for needle, (record, kind) in self._by_word[int(words[hit])]:
                        if part.startswith(needle, offset) and offset < _PART:
                            yield start + offset, record, kind


def _files(places: Iterable[str | os.PathLike]) -> Iterator[Path]:
    for place in map(Path, places):
        if place.is_symlink() or not place.is_dir():
            if place.is_file() and not place.is_symlink():
                yield place
            continue
        yield from (Path(entry.path) for _, entry in walk(place) if entry.is_file(follow_symlinks=False))


def find_traces(
    places: str | os.PathLike | Iterable[str | os.PathLike], records: Sequence[Record], tokenizer=None, *,
    known: Iterable[bytes] = (),
) -> list[Trace]:  # fmt: skip
    """Every file under ``places`` (files or folders) that holds text, or with ``tokenizer`` token numbers, of the
    records: the first place of each record in each file. [] where nothing was found. File names are searched too.

    ``known``: texts that hold nothing of the records; what a record has in common with them (an ordinary word that is
    an answer) is no trace of it (:func:`~fastunlearn.evidence.known.known_texts`).

    A place that is not there holds nothing; a link is not followed. Raises InvalidInputError for a file that cannot be
    read.
    """
    needles = _needles(records, tokenizer, known)
    if not needles:
        return []
    search, found = _Search(needles), []
    for path in _files([places] if isinstance(places, (str, os.PathLike)) else places):
        seen = set()
        named = search.places(os.fsencode(path.name))
        for offset, record, kind in (*named, *_inside(path, search)):
            if (record, kind) not in seen:
                seen.add((record, kind))
                found.append(Trace(str(path), offset, record, kind))
    return found


def _inside(path: Path, search: _Search) -> list[tuple[int, int, str]]:
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return []
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return sorted(search.places(data))
    except OSError as error:
        raise InvalidInputError(f"{visible(path)} cannot be searched: {error.strerror or error}") from error
