"""What a forger would do to an evidence folder, as far as one can without the owner's key (``resign`` is one who has a
key)."""

from __future__ import annotations

import json
from pathlib import Path

from fastunlearn.evidence import log as log_module
from fastunlearn.evidence.canonical import canonical, file_digest, sha256
from fastunlearn.evidence.folder import _document, _files
from fastunlearn.evidence.keys import fingerprint, load_private, public_pem, sign
from fastunlearn.evidence.layout import DOCUMENTS, FIELDS, LATE, LOG, MANIFEST, SIGNATURE, field_digests


def edit(folder: Path, name: str, *place, value=None) -> None:
    """Sets (or with value ... removes) the value at ``place`` of a JSON file and writes it as the package does."""
    document = json.loads((folder / name).read_text())
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value(inner[place[-1]]) if callable(value) else value
    (folder / name).write_bytes(_document(document))


def read(folder: Path, name: str):
    return json.loads((folder / name).read_text())


def relist(folder: Path) -> None:
    """Puts the digests as they are now into the manifest; the signature is left as it is."""
    manifest = read(folder, MANIFEST)
    for name in manifest["files"]:
        if (folder / name).is_file():
            digest, size = file_digest(folder / name)
            manifest["files"][name] = {"bytes": size, "sha256": digest}
    (folder / MANIFEST).write_bytes(_document(manifest))


def rechain(lines: list[dict]) -> bytes:
    """The entries as a log whose chain holds: numbers and hashes made anew."""
    previous = log_module.FIRST
    for number, entry in enumerate(lines):
        entry |= {"number": number, "previous": previous}
        entry["hash"] = previous = log_module._hash(entry)
    return b"".join(canonical(entry) + b"\n" for entry in lines)


def resign(folder: Path, key: Path, *, own_key: bool = True) -> None:
    """Makes everything fit together again and signs it: what an insider with the key can do. ``own_key``: puts the
    public half of the key into the folder."""
    private = load_private(key)
    if own_key:
        (folder / "public.pem").write_bytes(public_pem(private))
    fields = {name: field_digests(read(folder, name)) for name in DOCUMENTS}
    (folder / FIELDS).write_bytes(_document(fields))
    entries = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    outside = (MANIFEST, SIGNATURE, *LATE)
    models = read(folder, "models.json")
    entries[-1]["facts"] |= {side: models[side]["weights"] for side in ("before", "after")}
    entries[-1]["facts"]["files"] = sha256(canonical({n: a for n, a in _files(folder).items() if n not in outside}))
    (folder / LOG).write_bytes(rechain(entries))
    manifest = read(folder, MANIFEST)
    manifest |= {
        "files": {name: about for name, about in _files(folder).items() if name not in (MANIFEST, SIGNATURE)},
        "log": {"entries": len(entries), "head": entries[-1]["hash"]}, "key": fingerprint(private),
        "models": {side: models[side]["weights"] for side in ("before", "after")}, "created": entries[-1]["time"],
    }  # fmt: skip
    (folder / MANIFEST).write_bytes(_document(manifest))
    (folder / SIGNATURE).write_bytes(sign(private, (folder / MANIFEST).read_bytes()))
