"""The update, computed again from the configuration, the original model and the records."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastunlearn.errors import FastUnlearnError, InvalidInputError

from .as_saved import as_saved, tensor_forms
from .canonical import file_digest, visible
from .determinism import deterministic
from .digests import model_digest
from .environment import differences, environment
from .reading import Reading, shortened
from .result import Check
from .table import SETS, used

if TYPE_CHECKING:
    from fastunlearn.data.records import Record

__all__ = ["WEIGHT_TOLERANCE", "recompute"]

#: How far the weights may lie from the stated ones on another type of machine: L2 norm of the difference, relative to
#: that of the update (after less before). The guard's bisection turns rounding into steps of other lengths.
WEIGHT_TOLERANCE = 1e-2
_MOST_THREADS = 1024
_NOT_ARGUMENTS = {"forget", "retain", "held_out", "kept_fisher", "model", "tokenizer", "progress", "on_step", "state"}


def _needs(reading: Reading, given: Mapping[str, Sequence[Record]], kept_fisher) -> str:
    """What is missing for a re-computation, "" where nothing is."""
    about, steps = reading.document("requests.json"), reading.document("procedure.json")
    counts = used(about)
    if len(given.get("forget") or ()) != counts["forget"]:
        return f"all {counts['forget']} records to forget are needed (--forget)"
    for name, option in (("retain", "--retain"), ("held_out", "--held-out")):
        if len(given.get(name) or ()) != counts.get(name, 0):
            return f"the {counts.get(name, 0)} {name} records of the run are needed ({option})"
    kept = steps.get("kept_fisher")
    if kept is not None:
        if kept_fisher is None:
            return "the kept Fisher of the run is needed (--kept-fisher)"
        if file_digest(Path(kept_fisher).resolve())[0] != kept["sha256"]:
            return "the kept Fisher given is another file than that of the run"
    return ""


def _update(reading: Reading, before: Path, given, kept_fisher, out: Path, device: str, trust: bool, progress) -> None:
    from fastunlearn.storage import load_model, save_model
    from fastunlearn.unlearn import unlearn

    steps, where = reading.document("procedure.json"), reading.document("environment.json")
    if not 1 <= where["threads"] <= _MOST_THREADS or _NOT_ARGUMENTS & steps["arguments"].keys():
        raise InvalidInputError("the stated arguments or threads are none that a run can have")
    sets = {name: list(given[name]) for name in SETS if given.get(name)}
    with deterministic(where["threads"]):
        network, tokenizer = load_model(before, device=device, trust_remote_code=trust)
        unlearn(network, tokenizer, **sets, kept_fisher=kept_fisher, progress=progress, **steps["arguments"])
        save_model(network, tokenizer, out)


def _squares(folder: Path, other: Path) -> float:
    """Sum of squared differences of two model folders' tensors of the same name, float64. Raises InvalidInputError
    where one lacks a tensor of the other, or has it in another shape."""
    from safetensors import safe_open

    ours, theirs = tensor_forms(folder), tensor_forms(other)
    total = 0.0
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours or name not in theirs or ours[name][2] != theirs[name][2]:
            raise InvalidInputError(f"{folder} and {other} are no pair: one has another {visible(name)}")
        with safe_open(ours[name][0], framework="pt") as one, safe_open(theirs[name][0], framework="pt") as two:
            total += float((one.get_tensor(name).double() - two.get_tensor(name).double()).square().sum())
    return total


def recompute(
    reading: Reading, before: str | Path, given: Mapping[str, Sequence[Record]], *, model: str | Path | None = None,
    kept_fisher: str | Path | None = None, tolerance: float = WEIGHT_TOLERANCE, device: str = "cpu",
    trust_remote_code: bool = False, progress=None,
) -> Check:  # fmt: skip
    """Runs the stated procedure on the model ``before`` and compares with the stated weights after: to the bit on the
    same type of machine for a deterministic run, else within ``tolerance`` of ``model``, the model after."""
    try:
        missing = _needs(reading, given, kept_fisher)
        if missing:
            return Check("update", False, f"not computed again: {missing}")
        stated = reading.document("models.json")["after"]
        where = reading.document("environment.json")
        other = differences(where, environment(where["threads"], deterministic=True))
        with tempfile.TemporaryDirectory(prefix="fastunlearn-") as place:
            out = Path(place) / "again"
            _update(reading, Path(before), given, kept_fisher, out, device, trust_remote_code, progress)
            found = model_digest(out)
            if found["weights"] == stated["weights"]:
                return Check("update", True, "the update was computed again and gives the model after, to the bit")
            if where["deterministic"] and not other:
                then = stated["tensors"]
                wrong = sorted(name for name, digest in found["tensors"].items() if digest != then.get(name))
                return Check("update", False, "the stated procedure does not give the model after on the same type of "
                             f"machine: {len(wrong)} of {len(then)} tensors differ ({visible(wrong[:1])})")  # fmt: skip
            return _near(Path(before), out, model, tolerance, other, trust_remote_code)
    except (FastUnlearnError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        return Check("update", False, f"the stated procedure cannot be run again: {visible(error)}")


def _near(before: Path, again: Path, model, tolerance: float, other: list[str], trust: bool) -> Check:
    why = shortened([visible(one) for one in other]) or "the run was not made in the deterministic mode"
    if model is None:
        return Check("update", False, f"computed again with other bits, as may be ({why}); give the model after "
                     "(--model) to see how near they are")  # fmt: skip
    with as_saved(before, model, trust_remote_code=trust) as place:
        length = math.sqrt(_squares(place, Path(model)))
    if length == 0:
        raise InvalidInputError("the model handed over is the one before")
    far = math.sqrt(_squares(again, Path(model))) / length
    says = f"computed again: {far:.2e} of the update's length away from the model after, {tolerance:g} is allowed"
    return Check("update", far <= tolerance, f"{says} ({why})")
