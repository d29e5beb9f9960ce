"""Salted hashes of records: what a folder may say of a record without telling it.

A record's hash is SHA-256 of its salt (32 random bytes of its own), and of prompt and completion, each with its length
in front. Who holds a record and its salt can check that it was meant; without the salt the hash tells nothing, not even
to one who guesses the text. The salts lie in a private file of the owner, apart from the evidence; deleting that file
makes the hashes meaningless for ever.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastunlearn.errors import InvalidInputError

from .canonical import canonical, parse, read_regular, visible
from .keys import write_private

if TYPE_CHECKING:
    from fastunlearn.data.records import Record

__all__ = ["Salts", "match", "record_hash", "set_hash"]

FORMAT = "fastunlearn-salts-1"


def _encoded(record: Record) -> bytes:
    parts = (record.prompt.encode(), record.completion.encode())
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def record_hash(record: Record, salt: bytes) -> str:
    """The salted hash of a record, hexadecimal."""
    return hashlib.sha256(salt + _encoded(record)).hexdigest()


def set_hash(records: Sequence[Record], salt: bytes) -> str:
    """One salted hash of records in their order."""
    digest = hashlib.sha256(salt)
    for record in records:
        digest.update(hashlib.sha256(_encoded(record)).digest())
    return digest.hexdigest()


class Salts:
    """``run``: whose they are. ``forget``: one salt for each record to forget, in order; None (null in the file) for
    those that the owner does not give away. ``sets``: by name of a set."""

    def __init__(self, run: str, forget: list[bytes | None], sets: dict[str, bytes]):
        self.run, self.forget, self.sets = run, forget, sets

    @classmethod
    def read(cls, path: str | os.PathLike) -> Salts:
        """Raises InvalidInputError for what is no file of salts."""
        try:
            found = parse(read_regular(path))
            if found["format"] != FORMAT or not isinstance(found["run"], str):
                raise ValueError("another format")
            sets = {name: bytes.fromhex(salt) for name, salt in found["sets"].items()}
            forget = [None if salt is None else bytes.fromhex(salt) for salt in found["forget"]]
            return cls(found["run"], forget, sets)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInputError(f"{path} is no file of salts ({visible(error)}); ask the run's owner") from error

    @classmethod
    def held(cls, path: str | os.PathLike, run: str | None, count: int) -> Salts | None:
        """The salts of the run in ``path``, None where there is no such file. ``run``: None for one that has not begun,
        whose salts cannot be there. Raises InvalidInputError where they are another run's."""
        if not os.path.lexists(path):
            return None
        found = cls.read(path)
        if found.run != run or len(found.forget) != count or None in found.forget:
            raise InvalidInputError(
                f"{path} holds the salts of another run: give another path, or delete the file if that run was given "
                "up (without it nobody can show which records a finished run was of)"
            )
        return found

    @classmethod
    def make(cls, path: str | os.PathLike, run: str, count: int) -> Salts:
        """The salts of the run in ``path``, which is made (mode 0600) where it is missing. Raises InvalidInputError
        where it is another run's or of another number of records, OutputError."""
        found = cls.held(path, run, count)
        if found is not None:
            return found
        found = cls(run, [secrets.token_bytes(32) for _ in range(count)],
                    {name: secrets.token_bytes(32) for name in ("retain", "held_out")})  # fmt: skip
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        about = {"format": FORMAT, "run": run, "forget": [salt.hex() for salt in found.forget],
                 "sets": {name: salt.hex() for name, salt in found.sets.items()}}  # fmt: skip
        write_private(Path(path), canonical(about) + b"\n")
        return found


def match(records: Sequence[Record], hashes: Sequence[str], salts: Sequence[bytes | None]) -> list[int | None]:
    """For each record the place of the hash that is its own, None where none is; a record that is there twice has two
    places. ``salts`` belong to ``hashes``. Raises InvalidInputError where they do not fit."""
    if len(hashes) != len(salts):
        raise InvalidInputError(f"{len(salts)} salts do not fit {len(hashes)} hashes: they are of another run")
    free = dict(enumerate(zip(hashes, salts, strict=True)))
    found = []
    for number, record in enumerate(records):
        first = [number] if number in free else []  # most often they are in order
        place = next((one for one in (*first, *free) if _is(record, *free[one])), None)
        free.pop(place, None)
        found.append(place)
    return found


def _is(record: Record, hashed: str, salt: bytes | None) -> bool:
    return salt is not None and record_hash(record, salt) == hashed
