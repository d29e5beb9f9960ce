"""Data files to rows: each row a dictionary, with the place where it stands for error messages.

Error messages name the file and the line, and never quote what stands there.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from fastunlearn.errors import InvalidInputError

__all__ = ["FROM_PYTHON", "READERS", "SCHEMAS", "next_row", "read_rows", "text_of"]

#: The columns that make a record, the first match counts.
SCHEMAS = (("prompt", "completion"), ("question", "answer"), ("text",))

#: What no command has, and so is said to those who have it.
FROM_PYTHON = "from Python: text_column=NAME reads another column"

Rows = Iterator[tuple[str, dict]]


def text_of(path: Path) -> str:
    """The file as text. A UTF-8 byte order mark is left out, and line ends become line feeds."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InvalidInputError(f"source: there is no file {path}") from None
    except OSError as error:
        raise InvalidInputError(f"source: {path} cannot be read: {error.strerror}") from None
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InvalidInputError(f"{path} line {line}: not UTF-8 text; save the file as UTF-8") from None


def _parse(text: str, where: Callable[[int], str]):
    """The JSON value of ``text``; ``where(line)`` names the place of an error."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInputError(f"{where(error.lineno)}: not valid JSON ({error.msg})") from None
    except (ValueError, RecursionError):
        raise InvalidInputError(f"{where(1)}: a number too long, or lists nested too deep, to read") from None


def _object(row: object, where: str) -> dict:
    if not isinstance(row, dict):
        raise InvalidInputError(f"{where}: a row must be a JSON object, and this is a {type(row).__name__}")
    return row


def _jsonl(path: Path, text: str, column: str | int | None) -> Rows:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path} line {number}"
            yield where, _object(_parse(line, lambda _, where=where: where), where)


def _json(path: Path, text: str, column: str | int | None) -> Rows:
    if not text.lstrip().startswith("["):
        yield from _jsonl(path, text, column)
        return
    for number, row in enumerate(_parse(text, lambda line: f"{path} line {line}"), 1):
        yield f"{path} row {number}", _object(row, f"{path} row {number}")


def _header(cells: list[str], column: str | int | None, where: str) -> list[str] | None:
    """The column names that the first row of a CSV file holds, or None where that row is a record already."""
    names = [cell.strip() for cell in cells]
    if isinstance(column, str):
        if column not in names:
            raise InvalidInputError(f"{where}: the header has no column text_column={column!r}")
        return names
    lower = [name.lower() for name in names]
    if any(set(schema) <= set(lower) for schema in SCHEMAS):
        return lower
    if column is None:
        wanted = ", or ".join(" + ".join(schema) for schema in SCHEMAS)
        raise InvalidInputError(
            f"{where}: no header with the columns {wanted}: name the column to read text there "
            f"({FROM_PYTHON}, or its number from 0 where there is no header)"
        )
    return None


def next_row(reader, most: int) -> list[str] | None:
    """The next row, None at the end. Cells may have ``most`` characters: Python's own limit, which is one for the whole
    process, is 131,072, and a record may be longer."""
    before = csv.field_size_limit(most)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(before)


def _csv(path: Path, text: str, column: str | int | None) -> Rows:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    started = False
    while True:
        where = f"{path} line {reader.line_num + 1}"
        try:
            cells = next_row(reader, len(text) + 1)
        except csv.Error as error:
            raise InvalidInputError(f"{where}: not valid CSV ({error})") from None
        if cells is None:
            return
        if not cells:
            continue  # a blank line
        if not started:
            started = True
            header = _header(cells, column, where)
            if header is not None:
                continue
        if header is not None and len(cells) != len(header):
            raise InvalidInputError(f"{where}: {len(cells)} cells, and the header has {len(header)}")
        yield where, dict(enumerate(cells)) | dict(zip(header or (), cells, strict=False))


def _txt(path: Path, text: str, column: str | int | None) -> Rows:
    if column is not None:
        raise InvalidInputError(f"text_column: {path} is plain text and has no columns; leave it out")
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{path} line {number}", {"text": line}


#: The file kinds by ending.
READERS = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".txt": _txt}


def read_rows(path: Path, column: str | int | None) -> Rows:
    """The rows of a file whose ending is in READERS, each with its place, such as "forget.csv line 3". CSV
    rows have their cells by number and, where there is a header, by name. Raises InvalidInputError."""
    return READERS[path.suffix.lower()](path, text_of(path), column)
