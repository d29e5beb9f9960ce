"""One way to write JSON for hashing, digests of files, names that are safe to show, and paths that stay inside."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from fastunlearn.errors import InvalidInputError

__all__ = [
    "MOST_JSON", "canonical", "file_digest", "leaves", "parse", "read_regular", "sha256", "unsafe_name", "visible",
    "walk",
]  # fmt: skip

#: Bytes of a JSON file above which it is not read: no folder of this kind comes near it.
MOST_JSON = 256 << 20
MOST_DEPTH = 64
_CHUNK = 1 << 20


def canonical(value: object) -> bytes:
    """``value`` as JSON in ASCII, keys sorted, no spaces: the same bytes for equal values. Raises InvalidInputError
    for what JSON cannot hold, NaN and infinity included."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(
            f"a fact cannot be written as JSON: {error}; use strings, finite numbers, lists and dictionaries"
        ) from error


def _refuse(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _once(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def parse(data: bytes) -> object:
    """JSON of ``data``, strictly: UTF-8, no NaN, no key twice, at most ``MOST_DEPTH`` levels. Raises ValueError."""
    try:
        found = json.loads(data.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level, depth = [found], 0
    while level:
        depth += 1
        if depth > MOST_DEPTH:
            raise ValueError("it is nested too deeply")
        level = [item for value in level if isinstance(value, (dict, list))
                 for item in (value.values() if isinstance(value, dict) else value)]  # fmt: skip
    return found


def sha256(data: bytes) -> str:
    """SHA-256 of ``data`` in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _open_regular(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is not a regular file")
    return descriptor


def file_digest(path: str | os.PathLike) -> tuple[str, int]:
    """SHA-256 and size of a regular file; a link is not followed. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    with open(_open_regular(Path(path)), "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def read_regular(path: str | os.PathLike, most: int = MOST_JSON) -> bytes:
    """The bytes of a regular file of at most ``most`` bytes; a link is not followed. Raises OSError."""
    with open(_open_regular(Path(path)), "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(f"it is larger than {most} bytes")
    return data


def visible(text: object) -> str:
    """``text`` for a terminal or a log: what does not print (control characters, direction marks) is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def unsafe_name(name: object) -> str:
    """Why ``name`` may not be the path of a file inside a folder, "" where it may."""
    if not isinstance(name, str) or not name:
        return "it is empty or no text"
    if "\0" in name or "\\" in name or name.startswith("/") or ":" in name:
        return "it is absolute or holds a character that paths here may not have"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "it leads out of the folder"
    return ""


def walk(folder: str | os.PathLike) -> Iterator[tuple[str, os.DirEntry]]:
    """Every entry below ``folder`` with its path in POSIX form; links are given, never followed. Raises OSError."""
    pending = [("", os.fspath(folder))]
    while pending:
        above, place = pending.pop()
        with os.scandir(place) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            yield above + entry.name, entry
            if entry.is_dir(follow_symlinks=False):
                pending.append((f"{above}{entry.name}/", entry.path))


def leaves(value: object, place: str = "") -> Iterator[tuple[str, object]]:
    """Every number, string, boolean, null and empty container of a JSON value, with its JSON pointer (RFC 6901)."""
    if isinstance(value, dict) and value:
        for key in value:
            yield from leaves(value[key], f"{place}/{str(key).replace('~', '~0').replace('/', '~1')}")
    elif isinstance(value, (list, tuple)) and value:
        for index, item in enumerate(value):
            yield from leaves(item, f"{place}/{index}")
    else:
        yield place, value
