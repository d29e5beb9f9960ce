"""The ledger of requests to forget, in one SQLite file.

A request is open, running or done. Its records' texts lie in the ledger until its run is done; what stays are keyed
hashes (HMAC-SHA-256 with a key of the ledger's own), which keep those records out of later runs. Deleted texts are
overwritten in the file (``secure_delete``), and there is no write-ahead log, which would keep copies.
Requests are in the order of their numbers; times are for people, and a clock that was set back is noted.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import hmac
import os
import re
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastunlearn.data.records import Record
from fastunlearn.errors import InvalidInputError, OutputError

__all__ = ["Ledger", "Request", "Run"]

_APPLICATION = 0x66756C72  # "fulr": marks the file as ours
_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE runs (number INTEGER PRIMARY KEY, status TEXT NOT NULL, started TEXT NOT NULL, done TEXT,
    before TEXT NOT NULL, out TEXT NOT NULL, evidence TEXT NOT NULL) STRICT;
CREATE TABLE requests (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, received TEXT NOT NULL,
    clock_set_back INTEGER NOT NULL, status TEXT NOT NULL, run INTEGER REFERENCES runs) STRICT;
CREATE TABLE records (request INTEGER NOT NULL REFERENCES requests, position INTEGER NOT NULL, hash BLOB NOT NULL,
    prompt TEXT, completion TEXT, PRIMARY KEY (request, position)) STRICT;
CREATE TABLE dependents (run INTEGER NOT NULL REFERENCES runs, hash BLOB NOT NULL, request INTEGER NOT NULL,
    PRIMARY KEY (run, hash)) STRICT;
"""


@dataclass(frozen=True)
class Request:
    """One row. ``records``: how many. ``run``: the number of the run that covers it, or None. ``evidence``: that run's
    folder once it is done."""

    number: int
    id: str
    received: str
    clock_set_back: bool
    status: str
    records: int
    run: int | None
    evidence: str | None


@dataclass(frozen=True)
class Run:
    """One run: ``status`` running or done; model folders ``before`` and ``out``, the ``evidence`` folder."""

    number: int
    status: str
    before: str
    out: str
    evidence: str


def now() -> str:
    """The time as people read it, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class Ledger:
    """Opens the ledger at ``path``; with ``make`` it is made where it is missing. A context manager.

    Raises InvalidInputError for a file that is no ledger or not there, OutputError where it cannot be read or written.
    """

    def __init__(self, path: str | os.PathLike, *, make: bool = False):
        self.path = Path(path)
        if not make and not self.path.exists():
            raise InvalidInputError(f"there is no ledger {path}: `fastunlearn requests add` makes it")
        with self._named():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self.path.exists():
                os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))  # texts: nobody else's business
            self._db = sqlite3.connect(self.path, isolation_level=None, timeout=10)
        try:
            with self._named():
                self._prepare()
        except BaseException:
            self._db.close()
            raise

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise OutputError(f"the ledger {self.path} could not be written: {error}; it is as it was") from error
            raise InvalidInputError(f"{self.path} is no ledger, or is damaged ({error}); it is left alone") from error
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(f"the ledger {self.path} cannot be opened: {error.strerror}") from error

    def _prepare(self) -> None:
        db = self._db
        db.execute("PRAGMA synchronous = EXTRA")  # a transaction that is told done survives a loss of power
        db.execute("PRAGMA secure_delete = ON")
        db.execute("PRAGMA foreign_keys = ON")
        found = db.execute("PRAGMA application_id").fetchone()[0]
        if found == _APPLICATION:
            return
        with self._writing():
            if db.execute("PRAGMA application_id").fetchone()[0] == _APPLICATION:
                return  # made by another process in the meantime
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise InvalidInputError(f"{self.path} is another program's database; name a new file")
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute("INSERT INTO facts VALUES ('key', ?)", (secrets.token_bytes(32),))
            db.execute(f"PRAGMA application_id = {_APPLICATION}")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction: all of it or nothing."""
        with self._named():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Requests

    def hash(self, record: Record) -> bytes:
        """The record's keyed hash; without the ledger's key it tells nothing."""
        with self._named():
            key = self._db.execute("SELECT value FROM facts WHERE name = 'key'").fetchone()[0]
        return hmac.new(key, record.digest().encode(), hashlib.sha256).digest()

    def add(self, id: str, records: Sequence[Record]) -> Request:
        """Takes in a request. Once this returns it is on the disk. Raises InvalidInputError for an identifier that is
        taken or has other characters than letters, digits and . _ : @ + -, and for no records."""
        if not isinstance(id, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,99}", id, re.ASCII):
            raise InvalidInputError("id must be 1 to 100 letters, digits and . _ : @ + -, a letter or digit first")
        records = list(dict.fromkeys(records))
        if not records:
            raise InvalidInputError(f"request {id} has no records: give at least one")
        with self._writing():
            if self._db.execute("SELECT 1 FROM requests WHERE id = ?", (id,)).fetchone():
                raise InvalidInputError(f"request {id} is in the ledger already; give another id")
            last = self._db.execute("SELECT max(received) FROM requests").fetchone()[0] or ""
            time = now()
            back = time < last
            number = self._db.execute(
                "INSERT INTO requests (id, received, clock_set_back, status) VALUES (?, ?, ?, 'open')", (id, time, back)
            ).lastrowid
            rows = [(number, i, self.hash(one), one.prompt, one.completion) for i, one in enumerate(records)]
            self._db.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", rows)
        return self.request(id)

    def requests(self) -> list[Request]:
        """All, in the order in which they came in."""
        with self._named():
            rows = self._db.execute(
                "SELECT q.number, q.id, q.received, q.clock_set_back, q.status, "
                "(SELECT count(*) FROM records r WHERE r.request = q.number), q.run, "
                "CASE WHEN q.status = 'done' THEN (SELECT evidence FROM runs WHERE runs.number = q.run) END "
                "FROM requests q ORDER BY q.number"
            ).fetchall()
        return [Request(*row[:3], bool(row[3]), *row[4:]) for row in rows]

    def request(self, id: str) -> Request:
        """Raises InvalidInputError for an identifier that is not there."""
        found = [one for one in self.requests() if one.id == id]
        if not found:
            raise InvalidInputError(f"request {id!r} is not in the ledger {self.path}")
        return found[0]

    def texts(self, request: Request) -> list[Record]:
        """Its records; [] once they were purged."""
        with self._named():
            rows = self._db.execute(
                "SELECT prompt, completion FROM records WHERE request = ? AND completion IS NOT NULL ORDER BY position",
                (request.number,),
            ).fetchall()
        return [Record(*row) for row in rows]

    # Runs

    def runs(self, status: str | None = None) -> list[Run]:
        """All runs, or those of one status, in order."""
        with self._named():
            rows = self._db.execute("SELECT number, status, before, out, evidence FROM runs ORDER BY number").fetchall()
        return [Run(*row) for row in rows if status in (None, row[1])]

    def begin(self, before: str, out: str, evidence: str) -> Run:
        """Gathers all open requests into a new run; out and evidence get its number. Raises InvalidInputError where
        there is none."""
        with self._writing():
            db = self._db
            if not db.execute("SELECT 1 FROM requests WHERE status = 'open'").fetchone():
                raise InvalidInputError("no request is open: there is nothing to run")
            number = 1 + (db.execute("SELECT max(number) FROM runs").fetchone()[0] or 0)
            made = (number, "running", before, f"{out}-{number:04d}", f"{evidence}-{number:04d}")
            db.execute(
                "INSERT INTO runs (number, status, started, before, out, evidence) VALUES (?, ?, ?, ?, ?, ?)",
                (*made[:2], now(), *made[2:]),
            )
            db.execute("UPDATE requests SET status = 'running', run = ? WHERE status = 'open'", (number,))
        return Run(*made)

    def give_up(self, run: Run) -> None:
        """Its requests are open again."""
        with self._writing():
            self._db.execute("UPDATE requests SET status = 'open', run = NULL WHERE run = ?", (run.number,))
            self._db.execute("DELETE FROM dependents WHERE run = ?", (run.number,))
            self._db.execute("DELETE FROM runs WHERE number = ?", (run.number,))

    def finish(self, run: Run, dependents: dict[bytes, int]) -> None:
        """Marks the run and its requests done, with the hashes of dependent records, by the number of the request that
        they depend on. Calling it again changes nothing."""
        with self._writing():
            self._db.execute("UPDATE runs SET status = 'done', done = ? WHERE number = ?", (now(), run.number))
            self._db.execute("UPDATE requests SET status = 'done' WHERE run = ?", (run.number,))
            rows = [(run.number, digest, request) for digest, request in dependents.items()]
            self._db.executemany("INSERT OR IGNORE INTO dependents VALUES (?, ?, ?)", rows)

    def purge(self) -> int:
        """Deletes the texts of all requests that are done, and rewrites the file without them; how many records had
        one."""
        with self._writing():
            done = "request IN (SELECT number FROM requests WHERE status = 'done') AND completion IS NOT NULL"
            gone = self._db.execute(f"UPDATE records SET prompt = NULL, completion = NULL WHERE {done}").rowcount
        with self._named():
            self._db.execute("VACUUM")
        return gone

    def dependents(self, run: int) -> list[tuple[bytes, int]]:
        """Hash and request number of the records that were forgotten or dropped because they depend on a request's."""
        with self._named():
            return self._db.execute(
                "SELECT hash, request FROM dependents WHERE run = ? ORDER BY request, hash", (run,)
            ).fetchall()

    def forgotten(self) -> set[bytes]:
        """Hashes of all records that runs which are done have covered."""
        with self._named():
            rows = self._db.execute(
                "SELECT hash FROM records r JOIN requests q ON q.number = r.request WHERE q.status = 'done' "
                "UNION SELECT hash FROM dependents"
            ).fetchall()
        return {row[0] for row in rows}
