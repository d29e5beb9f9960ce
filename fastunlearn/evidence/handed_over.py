"""Checks of what a reader was handed over beside the folder: models and records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastunlearn.errors import FastUnlearnError

from .as_saved import digest_as_saved
from .canonical import visible
from .commitments import Salts, match, set_hash
from .digests import model_digest
from .reading import Reading, shortened
from .result import Check

if TYPE_CHECKING:
    from fastunlearn.data.records import Record

__all__ = ["model", "records"]


def model(reading: Reading, folder: str | Path, side: str, *, trust_remote_code: bool = False) -> Check:
    """Whether the model in ``folder`` is the one of ``side`` (``before``, ``after``, ``reference``); and its weights by
    the names of a saved copy those that are stated, where they are."""
    name = f"model {side}"
    models = reading.document("models.json")
    stated = models.get(side)
    if not isinstance(stated, dict) or not isinstance(stated.get("tensors"), dict):
        return Check(name, False, f"the folder has no digests of a model {side}")
    try:
        found = model_digest(folder)
    except FastUnlearnError as error:
        return Check(name, False, visible(error))
    if found["weights"] != stated.get("weights"):
        for other in ("before", "after", "reference"):
            one = models.get(other)
            if isinstance(one, dict) and one.get("weights") == found["weights"]:
                return Check(name, False, f"the model was swapped: {visible(folder)} holds the model {other}")
        how = _differing(stated["tensors"], found["tensors"])
        return Check(name, False, f"{visible(folder)} is another model than that of this run: {how}")
    files = stated.get("files") if isinstance(stated.get("files"), dict) else {}
    others = sorted(one for one in files.keys() | found["files"].keys()
                    if files.get(one) != found["files"].get(one) and not one.endswith(".safetensors"))  # fmt: skip
    if others:
        which = shortened([visible(one) for one in others])
        return Check(name, False, f"the weights are those of this run, but {which} differs, is missing or was added")
    if "as_saved" in stated:
        why = _why_not_saved(reading, folder, stated["as_saved"], trust_remote_code)
        if why:
            return Check(name, False, why)
    return Check(name, True, f"{visible(folder)} is the model {side}, to the bit ({len(found['tensors'])} tensors)")


def _why_not_saved(reading: Reading, folder: str | Path, stated: object, trust_remote_code: bool) -> str:
    """Why the stated weights as they are saved are not those of ``folder``, "" where they are: what the check of the
    changed weights relies on."""
    try:
        found = digest_as_saved(folder, None, trust_remote_code=trust_remote_code)
    except FastUnlearnError as error:
        return f"its weights cannot be saved again, to compare them with the model after: {visible(error)}"
    tensors = stated.get("tensors") if isinstance(stated, dict) else None
    if not isinstance(tensors, dict) or tensors == found["tensors"]:
        return "" if isinstance(tensors, dict) else "models.json does not say what its weights are in a saved copy"
    versions = reading.document("environment.json").get("versions")
    then = versions.get("transformers") if isinstance(versions, dict) else None
    return (f"the weights are those of this run, but not as models.json has them in a saved copy: "
            f"{_differing(tensors, found['tensors'])} (saved with transformers {visible(then)} then)")  # fmt: skip


def _differing(stated: dict, found: dict) -> str:
    missing, added = sorted(stated.keys() - found.keys()), sorted(found.keys() - stated.keys())
    changed = sorted(name for name in stated.keys() & found.keys() if stated[name] != found[name])
    found_names = ((changed, "differ"), (missing, "are missing"), (added, "are added"))
    return ", ".join(f"{len(names)} of {len(stated)} tensors {what} (first: {visible(names[0])})"
                     for names, what in found_names if names)  # fmt: skip


def records(
    reading: Reading, given: Mapping[str, Sequence[Record]], path: str | Path
) -> tuple[Check, dict[int, Record]]:
    """Whether the records are those of the requests, and the other sets those that were used, by the salts in the file
    ``path``; and those of ``forget`` that are, by their place in the run. Raises InvalidInputError for what is no file
    of salts."""
    salts, places = Salts.read(path), {}
    try:
        check = _records(reading.document("requests.json"), given, salts, places)
    except (FastUnlearnError, KeyError, TypeError, AttributeError) as error:
        check = Check("records", False, f"requests.json does not fit the records: {visible(error)}")
    return check, dict(sorted(places.items()))


def _records(about: dict, given: Mapping[str, Sequence[Record]], salts: Salts, places: dict[int, Record]) -> Check:
    wrong, good = [], []
    if salts.run != about.get("run"):
        return Check("records", False, "the salts are those of another run")
    owners = [(request["id"], one) for request in about.get("requests", []) for one in request["records"]]
    if given.get("forget"):
        found = match(given["forget"], [one for _, one in owners], salts.forget)
        strangers = [number for number, place in enumerate(found, 1) if place is None]
        places.update((place, one) for place, one in zip(found, given["forget"], strict=True) if place is not None)
        if strangers:
            wrong.append(f"records {', '.join(map(str, strangers[:8]))} of forget are in no request of this run")
        hit = sorted({owners[place][0] for place in found if place is not None})
        if hit:
            requests = ", ".join(map(visible, hit))
            good.append(f"{len(found) - len(strangers)} records to forget are in request {requests}")
    for name in ("retain", "held_out"):
        stated = about.get("sets", {}).get(name)
        if not given.get(name) or name not in salts.sets:
            continue
        if stated is None:
            wrong.append(f"the run used no {name} records")
        elif set_hash(given[name], salts.sets[name]) != stated["hash"]:
            wrong.append(f"the {name} records are not those of the run ({len(given[name])} given, {stated['records']} "
                         "used; their order counts)")  # fmt: skip
        else:
            good.append(f"the {name} records are those of the run")
    if not wrong and not good:
        return Check("records", False, "salts were given and no records to look up with them (--forget)")
    return Check("records", not wrong, "; ".join(wrong + good))
