"""Records from files, from dataset folders, from the Hugging Face Hub (only where that is said), and from Python
objects."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastunlearn.data._files import FROM_PYTHON, READERS, SCHEMAS, read_rows
from fastunlearn.data.records import Record
from fastunlearn.errors import InvalidInputError

__all__ = ["ANSWER", "HUB", "QUESTION", "load_records"]

#: What a name on the Hub begins with. Without it nothing is asked for there: a mistyped file of personal data must not
#: send its name to others.
HUB = "hub:"

#: How a question and its answer become the prompt and the completion of a record.
QUESTION = "Question: {question}\nAnswer:"
ANSWER = " {answer}"


def load_records(
    source: str | os.PathLike | Iterable[Record | Mapping[str, Any]],
    *,
    split: str = "train",
    text_column: str | int | None = None,
) -> list[Record]:
    """The records of ``source``, in order.

    ``source`` is one of

    - Records, or dictionaries (a list, or any iterable, such as a ``datasets.Dataset``);
    - a file: ``.jsonl`` (one JSON object to a line), ``.json`` (a list of objects, or as .jsonl), ``.csv``
      (comma-separated, with a header or with ``text_column``) or ``.txt`` (one record to a line), in UTF-8;
      blank lines are passed over;
    - a folder, or ``hub:NAME`` of a dataset on the Hugging Face Hub, for the ``datasets`` package (4 or newer;
      it runs no loading scripts). Of a local folder nothing is left in its cache. Without ``hub:`` nothing is
      looked for on the network.

    A row becomes a record by its columns: ``prompt`` + ``completion`` as they are (a space between the two is
    yours to give); ``question`` + ``answer`` by QUESTION and ANSWER; or ``text``, free text. Where a row has
    several of these, the first counts; other columns are left alone.

    ``split``: the split of a folder or named dataset; files have none. ``text_column``: the column to read as
    free text in place of those above, by name, or for CSV by number from 0.

    Raises InvalidInputError, naming the file and the line, for what cannot be read, for a row without these
    columns, for a value that is no string, for an empty completion, and where there is no record at all.
    """
    if text_column is not None and (isinstance(text_column, bool) or not isinstance(text_column, str | int)):
        raise InvalidInputError(f"text_column must be a name or a number, got {type(text_column).__name__}")
    if isinstance(text_column, int) and text_column < 0:
        raise InvalidInputError(f"text_column must be at least 0, got {text_column}")
    if isinstance(source, str | os.PathLike):
        path, name = Path(source), os.fspath(source)
        if name.startswith(HUB):
            rows: Iterable[tuple[str, Any]] = _dataset_rows(name.removeprefix(HUB), split, hub=True)
        elif path.suffix.lower() in READERS and not path.is_dir():
            rows = read_rows(path, text_column)
        elif path.is_file():
            raise InvalidInputError(
                f"source: {path} is of an unknown kind; the kinds are {', '.join(READERS)} (by the ending)"
            )
        elif not path.is_dir():
            raise InvalidInputError(
                f"source: there is no file or folder {name}; for a data set of the Hub write {HUB}{name}"
            )
        else:
            rows = _dataset_rows(name, split, hub=False)
        records = [_record(row, where, text_column) for where, row in rows]
        if not records:
            raise InvalidInputError(f"source: {source} holds no records (its line 1 is already the end)")
        return records
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise InvalidInputError(
            f"source must be a path, {HUB}NAME, or a list of records, not a {type(source).__name__}"
        )
    records = [
        _record(row, f"record {number} of source", text_column) for number, row in enumerate(source, 1)
    ]
    if not records:
        raise InvalidInputError("source holds no records: give at least one")
    return records


def _record(row: Any, where: str, text_column: str | int | None) -> Record:
    if isinstance(row, Record):
        return row
    if not isinstance(row, Mapping):
        raise InvalidInputError(f"{where}: give a Record or a dictionary, not a {type(row).__name__}")
    if text_column is not None:
        columns: tuple = (text_column,)
        if text_column not in row:
            raise InvalidInputError(f"{where}: there is no column text_column={text_column!r}")
    else:
        columns = next((schema for schema in SCHEMAS if all(name in row for name in schema)), ())
        if not columns:
            wanted = ", or ".join(" + ".join(schema) for schema in SCHEMAS)
            raise InvalidInputError(f"{where}: needs the columns {wanted}: rename one to text ({FROM_PYTHON})")
    values = [row[name] for name in columns]
    for name, value in zip(columns, values, strict=True):
        if not isinstance(value, str):
            raise InvalidInputError(f"{where}: {name} must be a string, not {type(value).__name__}")
    if columns == ("question", "answer"):
        question, answer = (value.strip() for value in values)
        if not question:
            raise InvalidInputError(f"{where}: question is empty")
        values = [QUESTION.format(question=question), ANSWER.format(answer=answer)]
    try:
        return Record(*values) if len(values) == 2 else Record("", values[0])
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error}") from None


def _dataset_rows(source: str, split: str, *, hub: bool) -> list[tuple[str, Any]]:
    """The rows of a folder, or of a dataset of the Hub, each with its place."""
    try:
        import datasets
    except ImportError:
        raise InvalidInputError(
            f"source: {source} is no file; a folder or a data set of the Hub needs the datasets package: "
            "pip install datasets"
        ) from None
    if int(datasets.__version__.split(".")[0]) < 4:
        raise InvalidInputError(
            f"source: datasets {datasets.__version__} may run a loading script; install datasets 4 or newer"
        )
    folder = Path(source)
    try:
        if hub:
            return _placed(source, datasets.load_dataset(source, split=split))
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            saved = datasets.load_from_disk(source)
            if isinstance(saved, datasets.DatasetDict):
                if split not in saved:
                    known = ", ".join(saved)
                    raise InvalidInputError(f"split={split!r} is not in {source}; it has {known}")
                saved = saved[split]
            return _placed(source, saved)
        # Text that is to be forgotten must not stay behind in the user's cache.
        with tempfile.TemporaryDirectory() as cache:
            return _placed(source, datasets.load_dataset(source, split=split, cache_dir=cache))
    except InvalidInputError:
        raise
    except Exception as error:
        # Messages of these two kinds speak of names and splits; others might quote a record.
        said = f": {error}" if isinstance(error, OSError) or "split" in str(error)[:20].lower() else ""
        kind = "a data set of the Hub" if hub else "a folder"
        raise InvalidInputError(
            f"source: {source!r} is not {kind} that the datasets package could load with split={split!r} "
            f"({type(error).__name__}{said})"
        ) from None


def _placed(source: str, dataset: Iterable[Any]) -> list[tuple[str, Any]]:
    return [(f"{source} row {number}", row) for number, row in enumerate(dataset, 1)]
