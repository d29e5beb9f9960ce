"""Checks that need the folder alone: signature, digests, the chain of the log, and that the parts fit one another."""

from __future__ import annotations

from fnmatch import fnmatchcase

from fastunlearn.errors import InvalidInputError

from .canonical import canonical, parse, sha256, visible
from .keys import fingerprint, load_public, signature_holds
from .layout import DOCUMENTS, FIELDS, LATE, LOG, MANIFEST, PUBLIC_KEY, SIGNATURE, field_digests
from .log import check_lines
from .procedure import took_steps
from .reading import Reading, shortened
from .result import Check
from .table import add_up

__all__ = ["changed_weights", "digests", "fits", "layout", "log", "metrics_add_up", "signature"]


def layout(reading: Reading) -> Check:
    """Every file is listed, every listed one is there, and nothing is a link or leads outside."""
    wrong = list(reading.layout)
    if reading.manifest:
        wrong += [f"{visible(name)} was removed" for name in sorted(reading.listed.keys() - reading.present.keys())]
        wrong += [f"{visible(name)} was added: the manifest does not list it"
                  for name in sorted(reading.present.keys() - reading.listed.keys())]  # fmt: skip
        wrong += [f"the manifest does not list {name}" for name in (*DOCUMENTS, FIELDS, LOG, PUBLIC_KEY)
                  if name not in reading.listed]  # fmt: skip
    return Check("folder", not wrong, shortened(wrong) or f"{len(reading.present) + 2} files, all listed")


def signature(reading: Reading, public_key) -> list[Check]:
    """Whether the manifest is signed, and by the key that the reader trusts (a path, or None)."""
    if reading.manifest_bytes is None or reading.signature is None:
        return [Check("signature", False, "there is no manifest with a signature, so nothing is vouched for")]
    inside = reading.read(PUBLIC_KEY)
    try:
        key = load_public(inside or b"") if public_key is None else load_public(public_key)
    except InvalidInputError as error:
        if public_key is not None:
            raise
        return [Check("signature", False, f"{PUBLIC_KEY} was changed or removed: {error}")]
    shown = fingerprint(key)
    if not signature_holds(key, reading.signature, reading.manifest_bytes):
        own = "" if public_key is None or not _holds_inside(reading, inside) else \
            f"; it holds with the key in the folder, so the folder was signed by another key than {shown}"  # fmt: skip
        return [Check("signature", False, f"{MANIFEST} or {SIGNATURE} is not what was signed{own}")]
    found = [Check("signature", True, f"{MANIFEST} is as signed with the key {shown}")]
    if public_key is None:
        says = ("no key was given (--public-key), so the signature shows only that the parts belong together, not who "
                f"signed: compare the fingerprint {shown} with the owner")  # fmt: skip
        found.append(Check("signer", None, says))
    else:
        found.append(Check("signer", True, "it was signed by the owner of the key that you gave"))
    return found


def _holds_inside(reading: Reading, inside: bytes | None) -> bool:
    try:
        return signature_holds(load_public(inside or b""), reading.signature, reading.manifest_bytes)
    except InvalidInputError:
        return False


def _which_values(reading: Reading, name: str) -> list[str] | None:
    """What is different in a JSON file, by the digests of its values; None where they do not tell."""
    stated, data = reading.document(FIELDS).get(name), reading.read(name)
    if data is None or not isinstance(stated, dict):
        return None
    try:
        found = field_digests(parse(data))
    except (ValueError, InvalidInputError) as error:
        return [f"it was changed and is no longer JSON ({visible(error)})"]
    common = stated.keys() & found.keys()
    changed = [place for place in found if place in common and stated[place] != found[place]]
    removed, added = [p for p in stated if p not in common], [p for p in found if p not in common]
    return [
        f"the value {visible(place)} was {what}"
        for what, places in (("changed", changed), ("removed", removed), ("added", added))
        for place in places
    ]


def digests(reading: Reading) -> Check:
    """Every file has the bytes that the manifest lists; where not, which value differs."""
    if not reading.manifest:
        return Check("files", False, "there is no manifest to compare the files with")
    same = {name: reading.listed.get(name) in (None, about) for name, about in reading.present.items()}
    wrong = []
    for name in sorted(reading.present):
        # Values are told from fields.json, which must itself be as listed where it is to speak against a file that is.
        tells = name in DOCUMENTS and not (same[name] and not same.get(FIELDS, False))
        values = _which_values(reading, name) if tells else None
        if values:
            wrong.append(f"{name}: {shortened(values)}")
        elif not same[name]:
            what = "its spelling was changed, no value in it" if values == [] else _what_changed(reading, name)
            wrong.append(f"{visible(name)}: {what}")
    return Check("files", not wrong, shortened(wrong) or "every file has the digest that the manifest lists")


def _what_changed(reading: Reading, name: str) -> str:
    listed, present = reading.listed[name], reading.present[name]
    if listed["bytes"] != present["bytes"]:
        return f"it was changed: {present['bytes']} bytes, {listed['bytes']} were signed"
    return f"it was changed: SHA-256 {present['sha256'][:16]}..., {listed['sha256'][:16]}... was signed"


def log(reading: Reading) -> Check:
    """The chain holds, begins and ends where the manifest says, and is of this run."""
    data = reading.read(LOG)
    if data is None:
        return Check("log", False, f"{LOG} is missing or cannot be read")
    entries, wrong, torn = check_lines(data)
    if torn:
        wrong.append(f"its last line is torn ({torn} bytes), which a finished log never is")
    stated = reading.manifest.get("log")
    if entries and stated:
        run, count = entries[0]["facts"].get("run"), len(entries)
        if run != reading.manifest["run"]:
            wrong.append(f"it is the log of run {visible(run)}, the folder is of run "
                         f"{visible(reading.manifest['run'])}: another log was put in")  # fmt: skip
        elif count < stated["entries"] and not wrong:
            wrong.append(f"it ends after {count} entries, {stated['entries']} were signed: the last ones were "
                         "removed, or an older log was put back")  # fmt: skip
        elif count > stated["entries"] and not wrong:
            wrong.append(f"it has {count} entries, {stated['entries']} were signed: entries were added")
        elif entries[-1]["hash"] != stated["head"] and not wrong:
            wrong.append("it is a whole chain but not the one that was signed: another log was put in")
    if wrong or not entries:
        return Check("log", False, shortened(wrong) or "it is empty")
    back = [entry for entry in entries if "clock_set_back_seconds" in entry["facts"]]
    noted = f"; the clock was set back {len(back)} times, as the log itself says" if back else ""
    span = f"{entries[0]['time']} to {entries[-1]['time']}"
    return Check("log", True, f"{len(entries)} entries in an unbroken chain, {span} by the machine's clock{noted}")


def fits(reading: Reading, run: str | None) -> Check:
    """All parts are of one run (of ``run``, where the reader knows it), and say the same of the models."""
    if not reading.manifest:
        return Check("run", False, "there is no manifest that says which run this is")
    own, wrong = reading.manifest["run"], []
    if run is not None and run != own:
        wrong.append(f"this folder is of run {visible(own)}, not of {visible(run)}: it is another run's folder, or the "
                     "identifier is mistyped")  # fmt: skip
    for name in DOCUMENTS:
        said = reading.document(name).get("run")
        if said != own:
            wrong.append(f"{name} is of run {visible(said)}, the manifest of {visible(own)}")
    models = reading.document("models.json")
    end = _sealed(reading)
    sealed = end.get("facts", {})
    for side in ("before", "after"):
        weights = _inner(models, side, "weights")
        if weights != reading.manifest["models"][side]:
            wrong.append(f"the weights {side} are {visible(weights)[:16]} in models.json and "
                         f"{visible(reading.manifest['models'][side])[:16]} in the manifest")  # fmt: skip
        if sealed and sealed.get(side) != reading.manifest["models"][side]:
            wrong.append(f"the log was sealed for other weights {side} than the manifest has")
    if sealed:
        if reading.manifest.get("created") != end["time"]:
            wrong.append(f"the manifest's date, {visible(reading.manifest.get('created'))}, is not that of the sealing "
                         f"in the log, {end['time']}")  # fmt: skip
        others = {name: about for name, about in reading.listed.items() if name not in LATE}
        if sealed.get("files") != sha256(canonical(others)):
            wrong.append("the log was sealed for other files than the manifest lists")
    elif reading.read(LOG) is not None:
        wrong.append("the log does not end with the sealing of this folder")
    return Check("run", not wrong, shortened(wrong) or f"all parts are of run {visible(own)}")


def _inner(value: dict, *keys: str) -> object:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _sealed(reading: Reading) -> dict:
    """The log's last entry, where that is the sealing."""
    entries, _, _ = check_lines(reading.read(LOG) or b"")
    return entries[-1] if entries and entries[-1]["event"] == "sealed" else {}


def metrics_add_up(reading: Reading) -> Check:
    """The aggregates of the model after are what the figures of the single records add up to."""
    found = reading.document("metrics.json")
    table, after = found.get("table"), found.get("after")
    if not isinstance(table, dict) or not isinstance(after, dict):
        return Check("sums", None, "there are no figures of single records to add up")
    try:
        requests = reading.document("requests.json")
        wrong = add_up(table, found.get("intervals"), after, found.get("measured_with") or {}, requests)
    except InvalidInputError as error:
        return Check("sums", False, f"metrics.json: {error}")
    if wrong:
        return Check("sums", False, shortened(wrong))
    counts = ", ".join(f"{len(rows['tokens'])} {name}" for name, rows in table.items())
    return Check("sums", True, f"the metrics are what the records add up to ({counts})")


def changed_weights(reading: Reading) -> Check:
    """Only weights that the procedure says may change differ between before and after; and some do."""
    models, steps = reading.document("models.json"), reading.document("procedure.json")
    saved = ("before", "as_saved") if _inner(models, "before", "as_saved") is not None else ("before",)
    before, after = _inner(models, *saved, "tensors"), _inner(models, "after", "tensors")
    if not isinstance(before, dict) or not isinstance(after, dict) or not isinstance(steps.get("parameters"), list):
        return Check("weights", False, "models.json or procedure.json does not say which weights changed")
    wrong = []
    for side in dict.fromkeys([("before",), saved, ("after",)]):
        tensors = _inner(models, *side, "tensors")
        if sha256(canonical(tensors)) != _inner(models, *side, "weights"):
            wrong.append(f"the digest of the weights {' '.join(side)} is not that of its tensors")
    if before.keys() != after.keys() and len(saved) == 1:  # by name they are then no pairs
        name = min(before.keys() ^ after.keys())
        return Check("weights", False, f"the weights before and after have other names, such as {visible(name)}, and "
                     "models.json does not have those before as a saved copy has them (as_saved), as this version of "
                     "fastunlearn writes it: the evidence must be made again")  # fmt: skip
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    others = sorted(name for name in changed if not _may_change(name, steps))
    if others:
        wrong.append(f"weights changed that were not to: {shortened([visible(name) for name in others])}")
    if not changed and took_steps(steps):
        wrong.append("no weight differs between before and after, though steps were taken")
    if wrong or changed:
        return Check("weights", not wrong, shortened(wrong) or f"{len(changed)} of {len(after)} tensors differ before "
                     "and after, all of them among those that were to change")  # fmt: skip
    return Check("weights", None, "no weight differs before and after: the procedure took no step, as it says itself")


def _may_change(name: str, steps: dict) -> bool:
    """Whether the procedure may change the weight: it is named, or matches the patterns, or all weights may change. In
    a file a weight may have another name than in the running model; patterns count for both."""
    arguments = steps.get("arguments")
    patterns = arguments.get("parameters") if isinstance(arguments, dict) else []
    if patterns is None or name in steps["parameters"]:
        return True
    patterns = [patterns] if isinstance(patterns, str) else patterns
    return isinstance(patterns, list) and any(fnmatchcase(name, one) for one in patterns if isinstance(one, str))
