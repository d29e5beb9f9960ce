"""An evidence folder as a checker reads it: hostile until shown otherwise. Nothing here raises for what it finds; it
notes what is wrong and goes on, so that one change does not hide another."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from fastunlearn.errors import InvalidInputError

from .canonical import file_digest, parse, read_regular, unsafe_name, visible, walk
from .layout import FORMAT, MANIFEST, SIGNATURE

__all__ = ["Reading", "read_folder", "shortened"]

_SHOWN = 4
_HEX = re.compile(r"[0-9a-f]{64}")


def shortened(messages: list[str]) -> str:
    """The first few, and how many more there are."""
    more = len(messages) - _SHOWN
    return "; ".join(messages[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


@dataclass
class Reading:
    """``manifest_bytes``, ``signature``: as they lie there (None: not readable). ``manifest``: parsed, {} where it is
    none. ``layout``: what is wrong with names, kinds and the manifest itself. ``present``: size and SHA-256 of every
    other file that is there."""

    folder: Path
    manifest_bytes: bytes | None = None
    signature: bytes | None = None
    manifest: dict = field(default_factory=dict)
    layout: list[str] = field(default_factory=list)
    present: dict[str, dict] = field(default_factory=dict)
    _parsed: dict[str, object] = field(default_factory=dict)

    @property
    def listed(self) -> dict[str, dict]:
        """Files of the manifest with size and digest."""
        return self.manifest.get("files", {})

    def read(self, name: str) -> bytes | None:
        """The bytes of a file of the folder, None where it cannot be read."""
        if name not in self.present:
            return None
        try:
            return read_regular(self.folder / name)
        except OSError:
            return None

    def document(self, name: str) -> dict:
        """The JSON object in a file, {} where there is none."""
        if name not in self._parsed:
            data = self.read(name)
            try:
                found = parse(data) if data is not None else {}
            except ValueError:
                found = {}
            self._parsed[name] = found if isinstance(found, dict) else {}
        return self._parsed[name]


def _shape(manifest: object) -> str:
    """Why a parsed manifest is none, "" where it is one."""
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        return f"it is no manifest of the format {FORMAT}"
    log, models = manifest.get("log"), manifest.get("models")
    if not isinstance(manifest.get("run"), str) or not isinstance(manifest.get("files"), dict):
        return "it has no run or no files"
    if not isinstance(log, dict) or type(log.get("entries")) is not int or not isinstance(log.get("head"), str):
        return "it does not say where the log ends"
    if not isinstance(models, dict) or not all(isinstance(models.get(one), str) for one in ("before", "after")):
        return "it has no digests of the models"
    for name, about in manifest["files"].items():
        why = unsafe_name(name)
        if why:
            return f"it names {visible(name)!r}, and {why}"
        if not (isinstance(about, dict) and type(about.get("bytes")) is int
                and isinstance(about.get("sha256"), str) and _HEX.fullmatch(about["sha256"])):  # fmt: skip
            return f"it has no digest of {visible(name)}"
    return ""


def _read_manifest(reading: Reading) -> None:
    for name, attribute in ((MANIFEST, "manifest_bytes"), (SIGNATURE, "signature")):
        try:
            setattr(reading, attribute, read_regular(reading.folder / name))
        except OSError as error:
            reading.layout.append(f"{name} cannot be read: {error.strerror or error}")
    if reading.manifest_bytes is None:
        return
    try:
        found = parse(reading.manifest_bytes)
        why = _shape(found)
    except ValueError as error:
        found, why = {}, f"it is no JSON ({visible(error)})"
    if why:
        reading.layout.append(f"{MANIFEST} was changed: {why}")
    else:
        reading.manifest = found


def read_folder(folder: str | Path) -> Reading:
    """Reads names, kinds, manifest and digests. Raises InvalidInputError only where there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InvalidInputError(f"{folder} is no folder: give the evidence folder of a run")
    reading = Reading(folder)
    _read_manifest(reading)
    kept = {"/".join(name.split("/")[:depth]) for name in reading.listed for depth in range(1, name.count("/") + 1)}
    try:
        entries = list(walk(folder))
    except OSError as error:
        entries = []
        reading.layout.append(f"the folder cannot be read to its end: {visible(error.strerror or error)}")
    for name, entry in entries:
        if entry.is_symlink():
            reading.layout.append(f"{visible(name)} is a link; links are not followed here")
        elif entry.is_dir(follow_symlinks=False):
            if name not in kept:
                reading.layout.append(f"the folder {visible(name)} was added")
        elif not entry.is_file(follow_symlinks=False):
            reading.layout.append(f"{visible(name)} is neither a file nor a folder")
        elif name not in (MANIFEST, SIGNATURE):
            try:
                digest, size = file_digest(entry.path)
                reading.present[name] = {"bytes": size, "sha256": digest}
            except OSError as error:
                reading.layout.append(f"{visible(name)} cannot be read: {error.strerror or error}")
    return reading
