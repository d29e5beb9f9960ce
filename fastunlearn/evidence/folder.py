"""Writes the evidence folder of a run (its parts: layout.py), whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastunlearn.errors import InvalidInputError, OutputError

from .as_saved import digest_as_saved
from .canonical import canonical, file_digest, sha256, unsafe_name, visible, walk
from .claims import not_claimed
from .commitments import Salts, record_hash, set_hash
from .digests import model_digest
from .environment import environment
from .keys import fingerprint, load_private, public_pem, sign
from .known import known_texts
from .layout import FIELDS, FORMAT, LOG, MANIFEST, OPENSSF, OPENSSF_MODEL, OWN, PUBLIC_KEY, SIGNATURE, field_digests
from .openssf import sign_folder
from .procedure import procedure, took_steps
from .run import RunRecord
from .table import add_up, intervals
from .traces import find_traces

if TYPE_CHECKING:
    from fastunlearn.data.records import Record

__all__ = ["refuse_texts", "write_evidence"]

_MOST_OTHERS = 2000  # retained and held-out records, each, whose text is searched for in what is written


def _document(value: object) -> bytes:
    """JSON for people and machines: indented, ASCII (so control characters are escaped), strict."""
    canonical(value)  # raises for what is not JSON-ready
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode("ascii") + b"\n"


def _requests(run: RunRecord, salts: Salts) -> dict:
    hashes = [record_hash(record, salt) for record, salt in zip(run.forget, salts.forget, strict=True)]
    found, start = [], 0
    for request in run.requests:
        end = start + len(request.records)
        found.append({"id": request.id, "received": request.received, "records": hashes[start:end]})
        start = end
    others = {"retain": run.retain, "held_out": run.held_out}
    return {
        "run": run.log.run,
        "requests": found,
        "hash": "SHA-256 of salt (32 bytes), then prompt and completion, each with its length (8 bytes, big-endian)",
        "sets": {
            name: {"records": len(records), "hash": set_hash(records, salts.sets[name])}
            for name, records in others.items()
            if records
        },
    }


def _counts(run: RunRecord) -> dict:
    """As much of requests.json as says how many records there are; the hashes come last, with the salts."""
    others = {"retain": run.retain, "held_out": run.held_out}
    return {"requests": [{"records": one.records} for one in run.requests],
            "sets": {name: {"records": len(records)} for name, records in others.items()}}  # fmt: skip


def _metrics(run: RunRecord) -> dict:
    """Raises InvalidInputError where the table does not add up to the metrics: one of the two is wrong."""
    missing = {"before", "after"} - set(run.metrics)
    if missing:
        raise InvalidInputError(f"metrics lacks {', '.join(sorted(missing))}: give what measure() returned")
    if run.table is not None:
        wrong = add_up(run.table, None, run.metrics["after"], run.measured_with, _counts(run))
        if wrong:
            raise InvalidInputError(f"table and metrics are not of the same model and records: {wrong[0]}")
    return {
        "run": run.log.run,
        "before": run.metrics["before"],
        "after": run.metrics["after"],
        "reference": run.metrics.get("reference"),
        "measured_with": dict(run.measured_with),
        "table": None if run.table is None else dict(run.table),
        "intervals": None if run.table is None else intervals(run.table, run.measured_with),
        "attacks": dict(run.attacks),
    }


def _reference(run: RunRecord) -> dict | None:
    if run.reference is None:
        return None
    about = {key: value for key, value in run.reference.items() if key != "folder"}
    folder = run.reference.get("folder")
    return about | ({} if folder is None else model_digest(Path(folder)))


def _models(run: RunRecord) -> dict:
    found = {"run": run.log.run, "before": model_digest(run.before), "after": model_digest(run.after)}
    saved = digest_as_saved(run.before, run.after, trust_remote_code=run.trust_remote_code)
    if saved is not None:
        found["before"]["as_saved"] = saved
    if (saved or found["before"])["weights"] == found["after"]["weights"] and took_steps(run.result):
        raise InvalidInputError("before and after are the same weights, though steps were taken: check the folders")
    return found | {"reference": _reference(run)}


def _open_questions(run: RunRecord) -> list[str]:
    return not_claimed(run.metrics, deterministic=run.deterministic, stepped=took_steps(run.result))


def _documents(run: RunRecord) -> dict[str, object]:
    """By file name, everything that is said of the run."""
    for request in run.requests:
        if not request.records:
            raise InvalidInputError(f"request {visible(request.id)} has no records")
    if not run.requests:
        raise InvalidInputError("requests is empty: a run without a request has nothing to show")
    documents = {
        "models.json": _models(run),
        "procedure.json": {"run": run.log.run} | procedure(run),
        "metrics.json": _metrics(run),
        "configuration.json": {"run": run.log.run, "configuration": dict(run.configuration)},
        "environment.json": {"run": run.log.run} | environment(run.threads, deterministic=run.deterministic),
        "not_claimed.json": {
            "run": run.log.run,
            "not_claimed": [*_open_questions(run), *run.not_claimed],
            "notes": list(run.notes),
        },
    }
    salts = Salts.make(run.salts, run.log.run, len(run.forget))  # last: nothing is left behind for a bad argument
    return {"requests.json": _requests(run, salts), **documents}


def _attach(stage: Path, attachments: Mapping[str, object]) -> None:
    for name, content in attachments.items():
        why = unsafe_name(name) or ("it is a file of the evidence itself" if name in OWN else "")
        if why:
            raise InvalidInputError(f"attachments names {visible(name)!r}: {why}")
        target = stage / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, os.PathLike):
            try:
                target.write_bytes(Path(content).read_bytes())
            except OSError as error:
                raise InvalidInputError(f"attachment {visible(name)}: {error.strerror or error}") from error
        else:
            target.write_bytes(str(content).encode("utf-8"))


def _files(stage: Path) -> dict[str, dict]:
    found = {}
    for name, entry in walk(stage):
        if not entry.is_dir(follow_symlinks=False):
            digest, size = file_digest(entry.path)
            found[name] = {"bytes": size, "sha256": digest}
    return found


def _check_places(folder: str | os.PathLike, run: RunRecord, key: str | os.PathLike) -> None:
    inside = Path(os.path.realpath(folder))
    for what, path in (("salts", run.salts), ("the private key", key), ("the log", run.log.path)):
        if Path(os.path.realpath(path)).is_relative_to(inside):
            raise InvalidInputError(f"{what} ({path}) must lie outside of the evidence folder, which others are given")


def write_evidence(folder: str | os.PathLike, run: RunRecord, *, key: str | os.PathLike) -> Path:
    """Writes the evidence of ``run``, signed with the private key file ``key``, to ``folder``; adds ``sealed`` to its
    log. The folder appears whole or not at all.

    Raises InvalidInputError (what is missing or does not fit together; text of a record in what would be written),
    OutputError (there already, no space, no permission), ModelFolderError. OpenSSF signatures of the model after and of
    the folder are added where ``model-signing`` is installed and the key's folder has ``openssf-private.pem``.
    """
    from fastunlearn.storage.files import refuse_existing, staged_folder

    refuse_existing(folder)
    _check_places(folder, run, key)
    private = load_private(key)
    documents = _documents(run)
    with staged_folder(folder) as stage:
        for name, document in documents.items():
            (stage / name).write_bytes(_document(document))
        (stage / FIELDS).write_bytes(_document({name: field_digests(one) for name, one in documents.items()}))
        (stage / PUBLIC_KEY).write_bytes(public_pem(private))
        _attach(stage, run.attachments)
        refuse_traces([stage, run.log.path], run.sets(), known_texts(run.before, run.after))
        files = _files(stage)
        models = {name: documents["models.json"][name]["weights"] for name in ("before", "after")}
        requests = [request.id for request in run.requests]
        sealed = run.log.append("sealed", files=sha256(canonical(files)), requests=requests, **models)
        (stage / LOG).write_bytes(run.log.path.read_bytes())
        sign_folder(Path(run.after), stage / OPENSSF_MODEL, key)
        sign_folder(stage, stage / OPENSSF, key, ignore=(MANIFEST, SIGNATURE))
        manifest = _document({
            "format": FORMAT, "run": run.log.run, "created": sealed["time"], "files": _files(stage),
            "log": {"entries": len(run.log), "head": run.log.head}, "models": models, "key": fingerprint(private),
        })  # fmt: skip
        (stage / MANIFEST).write_bytes(manifest)
        (stage / SIGNATURE).write_bytes(sign(private, manifest))
    return Path(folder)


def refuse_traces(places: Sequence[Path], sets: Mapping[str, Sequence[Record]], known: Iterable[bytes]) -> None:
    """Raises OutputError where a file under ``places`` holds text of the records, beyond what ``known`` has of it."""
    known = list(known)
    for name, records in sets.items():
        some = list(records)[: None if name == "forget" else _MOST_OTHERS]
        traces = find_traces(places, some, known=known)
        if traces:
            where = Path(traces[0].path).name
            raise OutputError(
                f"no evidence was written: {visible(where)} would hold text of record {traces[0].record + 1} of {name} "
                f"(byte {traces[0].offset}); take it out of what was given for that file"
            )


def refuse_texts(
    documents: Mapping[str, object], sets: Mapping[str, Sequence[Record]], before: str | os.PathLike
) -> None:
    """What :func:`write_evidence` would refuse of the ``documents``, by file name: to be asked before computing."""
    with tempfile.TemporaryDirectory(prefix="fastunlearn-") as place:
        for name, document in documents.items():
            (Path(place) / name).write_bytes(_document(document))
        refuse_traces([Path(place)], sets, known_texts(before))
