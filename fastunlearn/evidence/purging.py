"""Removal of what was derived from records: kept Fishers, captured factors, states, temporary files.

Files are unlinked. On journaling file systems, on solid-state disks and in backups the old blocks may live on: where
that matters, the disk must be encrypted and its key destroyed. That is not claimed here.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastunlearn.errors import InvalidInputError, OutputError

from .canonical import visible, walk

if TYPE_CHECKING:
    from .log import EvidenceLog

__all__ = ["Purged", "derived", "purge"]

_MOST_HEADER = 100_000_000  # safetensors' own limit


@dataclass(frozen=True)
class Purged:
    """A file or folder that was deleted: its name (no folders above it), what it was, and its size in bytes."""

    name: str
    kind: str
    bytes: int


def _kind(path: Path) -> str:
    """What a file is, as far as its records go; "" for what is not derived from records by its looks."""
    if path.name.startswith(".") and path.suffix in (".tmp", ".old"):
        return "temporary file"
    if path.suffix != ".safetensors":
        return ""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length <= _MOST_HEADER else {}
        about = json.loads(header.get("__metadata__", {}).get("fastunlearn", "{}"))
    except (OSError, ValueError, TypeError, struct.error, AttributeError, RecursionError):  # another program's file
        return ""
    if not isinstance(about, dict):
        return ""
    if str(about.get("format", "")).startswith("fastunlearn-kept-fisher"):
        return "kept Fisher"
    if str(about.get("format", "")).startswith("fastunlearn-low-rank-fisher"):
        return "low-rank Fisher with its captures"
    return "state of a pass" if {"key", "facts"} <= about.keys() else ""


def derived(folder: str | os.PathLike) -> list[Path]:
    """Files below ``folder`` that fastunlearn derived from records: kept and low-rank Fishers, states of passes, and
    what interrupted writes left. Links are passed over."""
    return [Path(entry.path) for _, entry in walk(Path(folder)) if entry.is_file(follow_symlinks=False)
            and _kind(Path(entry.path))]  # fmt: skip


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    return sum(e.stat(follow_symlinks=False).st_size for _, e in walk(path) if not e.is_dir(follow_symlinks=False))


def purge(paths: Iterable[str | os.PathLike], log: EvidenceLog | None = None) -> list[Purged]:
    """Deletes the files and folders ``paths``; what is not there is passed over, so that it can be called again.

    All are looked at before the first is deleted. With ``log``, each is noted as ``purged``: name, kind and size, no
    digest, which could tell a short text. Raises InvalidInputError for a link (its target may be anywhere),
    OutputError where deleting fails.
    """
    there = []
    for path in map(Path, paths):
        if path.is_symlink():
            raise InvalidInputError(f"{visible(path)} is a link: name what it leads to, to delete nothing else")
        if path.exists():
            there.append(path)
    done = []
    for path in there:
        kind = "folder" if path.is_dir() else _kind(path) or "file"
        found = Purged(visible(path.name), kind, _size(path))
        try:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        except OSError as error:
            raise OutputError(f"{visible(path)} could not be deleted: {error.strerror or error}") from error
        done.append(found)
        if log is not None:
            log.append("purged", name=found.name, kind=found.kind, bytes=found.bytes)
    for folder in {path.parent for path in there}:
        _sync(folder)
    return done


def _sync(folder: Path) -> None:
    if os.name == "nt" or not folder.is_dir():
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
