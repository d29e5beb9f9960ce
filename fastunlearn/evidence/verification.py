"""The check of an evidence folder by a third party, who trusts nobody and says what follows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastunlearn.errors import InvalidInputError

from . import checks, handed_over, keys, remeasure
from .canonical import visible
from .layout import OPENSSF, OPENSSF_MODEL
from .reading import Reading, read_folder
from .result import Check, VerificationResult
from .words import conclusions

if TYPE_CHECKING:
    from fastunlearn.data.records import Record

__all__ = ["Check", "VerificationResult", "verify"]


def _openssf(reading: Reading, public_key, model) -> list[Check]:
    """The OpenSSF signature of the folder, and that of the model where it is there."""
    if public_key is None:
        return []
    from .openssf import why_not

    found = []
    for name, signature, of in (("openssf", OPENSSF, reading.folder), ("openssf model", OPENSSF_MODEL, model)):
        if of is None:
            continue
        if signature not in reading.present:
            found.append(Check(name, False, f"the folder has no {signature}"))
            continue
        why = why_not(Path(of), reading.folder / signature, public_key)
        found.append(Check(name, not why, why or f"{signature} holds with the key that you gave"))
    return found


def verify(
    folder: str | os.PathLike,
    *,
    public_key: str | os.PathLike | None = None,
    openssf_public_key: str | os.PathLike | None = None,
    run: str | None = None,
    model: str | os.PathLike | None = None,
    before: str | os.PathLike | None = None,
    reference: str | os.PathLike | None = None,
    records: Mapping[str, Sequence[Record]] | None = None,
    salts: str | os.PathLike | None = None,
    kept_fisher: str | os.PathLike | None = None,
    sample: int | None = 32,
    seed: int = 0,
    recompute: bool = False,
    tolerance: float | None = None,
    device: str = "cpu",
    trust_remote_code: bool = False,
    progress=None,
) -> VerificationResult:
    """Checks the evidence folder, and what was handed over beside it. Runs nothing that the folder holds.

    - ``public_key``: PEM file of the key that the reader trusts; without it the signature shows consistency only.
      ``openssf_public_key``: the same for the OpenSSF signatures. ``run``: the identifier that the folder must be of.
    - ``model``, ``before``, ``reference``: model folders, which must be those of the run to the bit.
    - ``records``: by set (``forget``, ``retain``, ``held_out``); with ``salts``, the owner's private file, they must be
      those of the run; with ``model``, ``sample`` of each set, drawn by ``seed``, are measured again (None: all, and
      the aggregates; with ``reference`` the KL to it too).
    - ``recompute``: with ``before`` and all records (and ``kept_fisher``), the update is computed again: to the bit on
      the same type of machine for a deterministic run, else within ``tolerance`` (relative to the update's length).

    A check that was asked for and cannot be made, for want of something, has failed. What is wrong with the folder is
    told in the result, never raised. Raises InvalidInputError where an argument is no folder, no key or no file of
    salts, where ``recompute`` lacks ``before``, and where the package that checks signatures is not installed.
    """
    if recompute and before is None:
        raise InvalidInputError("--recompute: not checked: --before is missing (before=, the model folder before)")
    keys.need()  # first of all: a machine that cannot check signatures has nothing to say against the folder
    if sample is not None and (isinstance(sample, bool) or not isinstance(sample, int) or sample < 1):
        raise InvalidInputError(f"sample={sample!r} must be an integer of at least 1, or None for all records")
    reading = read_folder(folder)
    given = {name: list(found) for name, found in (records or {}).items() if found}
    result = VerificationResult(visible(reading.manifest["run"]) if reading.manifest else None)
    result.checks += [checks.layout(reading), *checks.signature(reading, public_key), checks.digests(reading)]
    result.checks += [checks.log(reading), checks.fits(reading, run), checks.changed_weights(reading)]
    result.checks.append(checks.metrics_add_up(reading))
    result.checks += _openssf(reading, openssf_public_key, model)
    for side, place in (("after", model), ("before", before), ("reference", reference)):
        if place is not None:
            result.checks.append(handed_over.model(reading, place, side, trust_remote_code=trust_remote_code))
    places = None
    if salts is not None:
        check, places = handed_over.records(reading, given, salts)
        result.checks.append(check)
        if given.get("forget"):
            given["forget"] = list(places.values())  # in the order of the run, whatever order they came in
    if model is not None and given:
        options = {"reference": reference, "device": device, "trust_remote_code": trust_remote_code}
        known = {} if places is None else {"forget": list(places)}
        result.checks.append(remeasure.metrics(reading, model, given, known, sample=sample, seed=seed, **options))
    if recompute:
        result.checks.append(
            _recompute(reading, before, given, model, kept_fisher, tolerance, device, trust_remote_code, progress)
        )
    result.proven, result.not_proven = conclusions(reading, result)
    return result


def _recompute(reading, before, given, model, kept_fisher, tolerance, device, trust, progress) -> Check:
    from .recompute import WEIGHT_TOLERANCE, recompute

    limit = WEIGHT_TOLERANCE if tolerance is None else tolerance
    return recompute(reading, before, given, model=model, kept_fisher=kept_fisher, tolerance=limit, device=device,
                     trust_remote_code=trust, progress=progress)  # fmt: skip
