"""The log of a run: one JSON line to an entry, each with the hash of the one before, forced to the disk.

A line is canonical JSON of ``{"event", "facts", "hash", "number", "previous", "time"}``; ``hash`` is SHA-256 over the
same without ``hash``. A chain shows changes inside it; that lines are missing at its *end* shows only against a head
that is kept elsewhere (the signed manifest of the evidence folder).
"""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
from pathlib import Path

from fastunlearn.errors import InvalidInputError, OutputError

from .canonical import canonical, parse, read_regular, sha256, visible

__all__ = ["FIRST", "EvidenceLog", "check_lines", "now"]

FORMAT = "fastunlearn-log-1"
#: ``previous`` of the first entry.
FIRST = "0" * 64
_KEYS = {"event", "facts", "hash", "number", "previous", "time"}


def now() -> str:
    """This moment in UTC, to the microsecond, as RFC 3339."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _moment(text: str) -> datetime.datetime:
    return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=datetime.UTC)


def _set_back(before: str, after: str) -> float:
    """Seconds by which ``after`` lies before ``before``; 0 where it does not."""
    return max(0.0, (_moment(before) - _moment(after)).total_seconds())


def _hash(entry: dict) -> str:
    return sha256(canonical({key: entry[key] for key in entry if key != "hash"}))


def _link(entry: dict, last: dict | None, place: str) -> list[str]:
    """What is wrong between an entry and the one before it."""
    expected = 0 if last is None else last["number"] + 1
    number = entry["number"]
    before = "the beginning" if last is None else f"entry {last['number']}"
    if number > expected:
        return [f"{number - expected} entries were removed between {before} and entry {number}"]
    if number < expected:
        return [f"entry {number} stands after {before}: entries were moved, or put in a second time"]
    if entry["previous"] != (FIRST if last is None else last["hash"]):
        return [f"{place} does not follow {before}: one of the two was changed, or entries in between were replaced"]
    return []


def _check_line(line: bytes, number: int, last: dict | None) -> tuple[dict | None, list[str]]:
    """The entry of a line (None where it is none), and what is wrong with it."""
    place = f"entry {number}"
    try:
        entry = parse(line)
        if not isinstance(entry, dict) or set(entry) != _KEYS or not isinstance(entry["facts"], dict):
            raise ValueError("it is no entry of a log")
        if type(entry["number"]) is not int:
            raise ValueError("its number is no integer")
        moment = entry["time"]
        _moment(moment)
        if canonical(entry) != line:
            raise ValueError("it is not in canonical form")
    except (ValueError, TypeError, InvalidInputError) as error:
        return None, [f"{place} cannot be read: {visible(error)}"]
    wrong = []
    if entry["hash"] != _hash(entry):
        wrong.append(f"{place} ({visible(entry['event'])}): its content was changed, it does not give its hash")
    wrong += _link(entry, last, place)
    if last is not None and "clock_set_back_seconds" not in entry["facts"] and _set_back(last["time"], moment) > 0:
        wrong.append(f"{place}: its time lies before that of the entry before it, and it does not say that the clock "
                     "was set back")  # fmt: skip
    return entry, wrong


def check_lines(data: bytes) -> tuple[list[dict], list[str], int]:
    """Entries of a log's bytes, what is wrong with it (nothing: []), and the length of a torn last line (0: none)."""
    whole, _, torn = data.rpartition(b"\n")
    lines = whole.split(b"\n") if whole or data.startswith(b"\n") else []
    entries: list[dict] = []
    wrong: list[str] = []
    last = None
    for line in lines:
        number = 0 if last is None else last["number"] + 1
        entry, found = _check_line(line, number, last)
        wrong += found
        if entry is None:
            break  # what follows has no anchor
        entries.append(entry)
        last = entry
    if entries and not (entries[0]["event"] == "begin" and entries[0]["facts"].get("format") == FORMAT):
        wrong.append("entry 0 is not the beginning of a log")
    return entries, wrong, len(torn)


class EvidenceLog:
    """Opens the log at ``path``, or makes it with a first entry that holds ``run``, the run's identifier (default:
    random). Holds an exclusive lock until :meth:`close` (POSIX).

    A last line without its end, which a killed writer leaves, is dropped and an entry ``recovered`` says so. Raises
    InvalidInputError for a log that is damaged in any other way or belongs to another run, OutputError where it cannot
    be written or another process has it open.
    """

    def __init__(self, path: str | os.PathLike, run: str | None = None):
        self.path = Path(path)
        new = not os.path.lexists(self.path)
        self._file = self._open()
        try:
            self._entries = self._read()
            if not self._entries:
                self.append("begin", format=FORMAT, run=run or secrets.token_hex(16))
                self._sync_folder()
            elif run is not None and run != self.run:
                raise InvalidInputError(
                    f"{self.path} is the log of run {visible(self.run)}, not of {visible(run)}: give another path"
                )
            if self._torn:
                self.append("recovered", dropped_bytes=self._torn)
        except BaseException:
            self.close()
            if new:
                with contextlib.suppress(OSError):
                    self.path.unlink()
            raise

    def _open(self):
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
            file = open(os.open(self.path, flags, 0o666), "r+b", buffering=0)  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise OutputError(f"the log {self.path} cannot be opened: {error.strerror or error}") from error
        with contextlib.suppress(ImportError):  # no such lock on Windows
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.close()
                raise OutputError(f"the log {self.path} is in use by another process: wait for its end") from error
        return file

    def _read(self) -> list[dict]:
        try:
            data = read_regular(self.path)
        except OSError as error:
            raise OutputError(f"the log {self.path} cannot be read: {error.strerror or error}") from error
        entries, wrong, self._torn = check_lines(data)
        if wrong:
            raise InvalidInputError(f"the log {self.path} was changed: {wrong[0]}; it is left as it is")
        self._size = len(data) - self._torn
        if self._torn:
            os.ftruncate(self._file.fileno(), self._size)
        return entries

    def _sync_folder(self) -> None:
        if os.name == "nt":
            return
        descriptor = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @property
    def run(self) -> str:
        """The identifier of the run."""
        return self._entries[0]["facts"]["run"]

    @property
    def head(self) -> str:
        """The hash of the last entry."""
        return self._entries[-1]["hash"]

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> list[dict]:
        """All entries, from the first."""
        return list(self._entries)

    def append(self, event: str, **facts: object) -> dict:
        """Adds an entry and returns it once it is on the disk. ``facts``: JSON-ready.

        A time before that of the last entry is kept as the clock says, with ``clock_set_back_seconds`` among the facts.
        Raises InvalidInputError (not JSON-ready), OutputError (not written: the log is as it was).
        """
        time = now()
        if self._entries:
            back = _set_back(self._entries[-1]["time"], time)
            if back:
                facts["clock_set_back_seconds"] = back
        entry = {"event": event, "facts": facts, "number": len(self._entries), "time": time,
                 "previous": self.head if self._entries else FIRST}  # fmt: skip
        entry = parse(canonical(entry))  # as a reader will see it: tuples as lists, keys as strings
        entry["hash"] = _hash(entry)
        self._write(canonical(entry) + b"\n")
        self._entries.append(entry)
        return entry

    def _write(self, line: bytes) -> None:
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
            os.fsync(self._file.fileno())
        except (OSError, ValueError) as error:
            with contextlib.suppress(OSError, ValueError):
                os.ftruncate(self._file.fileno(), self._size)
            reason = getattr(error, "strerror", None) or error
            raise OutputError(f"the log {self.path} could not be written: {reason}; it is as it was") from error
        self._size += len(line)

    def close(self) -> None:
        """Gives the lock back."""
        self._file.close()

    def __enter__(self) -> EvidenceLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
