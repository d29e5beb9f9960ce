"""How settings trade time and memory against forgetting and damage: many runs of one method from one model.

Every setting is varied by itself around the method's defaults (or all together), each run starts from the same weights,
and what came out is kept after each run, so that a sweep that was stopped goes on where it was. On the *Pareto front*
are the runs that no other one beats or equals in everything and beats in something: seconds, bytes, damage and how
much of the target is left to forget.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from fastunlearn.audit.divergence import kl, reference_log_probs
from fastunlearn.audit.scores import token_scores
from fastunlearn.data.encode import Encoded
from fastunlearn.errors import FastUnlearnError, InvalidInputError
from fastunlearn.info import info
from fastunlearn.progress import NO_PROGRESS, Progress
from fastunlearn.resources import parse_memory
from fastunlearn.solve.fingerprint import fingerprint
from fastunlearn.storage import write_json
from fastunlearn.unlearn import get_method, unlearn
from fastunlearn.unlearn.settings import make_settings
from fastunlearn.unlearn.snapshot import restored_on_failure

__all__ = ["AXES", "Axis", "Sweep", "axes_of", "beats", "pareto", "points_of", "sweep"]

#: What is varied where nothing is said: for methods that have such a setting, around its default.
AXES: dict[str, tuple] = {
    "fisher_samples": (32, 128, None),
    "blocks": ("model", "layer", "tensor"),
    "damping": (1e-8, 1e-6, 1e-4, 1e-2),
    "kind": ("empirical", "sampled"),
    "steps": (15, 30, 60),
    "step_norm": (0.1, 0.25, 0.5),
    "step_drift": (2.5e-4, 1e-3, 4e-3, None),
    "fade": ("mean", "blend", "ranks"),
}
#: How much of a figure is chance. A peak depends on what earlier runs of the process left; the damage of many steps
#: moves by up to half a per cent where the damping is changed by a thousandth (docs/performance.md, 31).
NOISE = {"seconds": 0.05, "peak_bytes": 0.15, "damage": 0.005}
FILE = "sweep.json"
FORMAT = 2  # 1: nothing said what damage was measured from, so that runs of both kinds could lie in one file
Axis = Mapping[str, Sequence]


def axes_of(method: str) -> dict[str, tuple]:
    """Those of AXES that the method has a setting for."""
    has = {field.name for field in dataclasses.fields(get_method(method).settings)}
    return {name: values for name, values in AXES.items() if name in has}


def points_of(method: str, axes: Axis, *, full: bool = False, fixed: Mapping | None = None) -> list[dict]:
    """The settings of the runs: the defaults with ``fixed``, then each value of each axis by itself, or with ``full``
    every combination. "parameters" (patterns of weights) is an axis too. Raises InvalidInputError for a setting that
    the method has not."""
    row, fixed = get_method(method), dict(fixed or {})
    defaults = {field.name: field.default for field in dataclasses.fields(row.settings)} | dict(row.preset) | fixed
    found: list[dict] = [dict(fixed)]
    if full:
        found += [fixed | dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    else:
        found += [fixed | {name: value} for name, values in axes.items() for value in values]
    unique: dict[str, dict] = {}
    for settings in found:
        plain = {name: value for name, value in settings.items() if name != "parameters"}
        make_settings(row.settings, method, dict(row.preset) | plain)
        key = json.dumps({"parameters": None, **defaults, **settings}, sort_keys=True)  # a default is no other run
        unique.setdefault(key, settings)
    return list(unique.values())


def beats(other: Mapping, point: Mapping, keys: Sequence[str], noise: Mapping[str, float] = NOISE) -> bool:
    """Whether ``other`` is at most as large in all ``keys`` and smaller in one. Of what is partly chance a share
    ``noise`` more counts as no larger, and only more than that less as smaller. A value of None counts as infinite."""

    def value(one: Mapping, key: str) -> float:
        return float("inf") if one[key] is None else one[key]

    triples = [(value(other, key), value(point, key), noise.get(key, 0.0)) for key in keys]
    no_larger = all(b <= a * (1 + part) for b, a, part in triples)
    return no_larger and any(b < a * (1 - part) for b, a, part in triples)


def pareto(points: Sequence[Mapping], keys: Sequence[str]) -> list[bool]:
    """Whether each point is on the front: no other :func:`beats` it."""
    return [not any(beats(other, point, keys) for other in points) for point in points]


class Sweep:
    """The runs so far, in ``folder/sweep.json``, which belongs to one model, reference, set of records and
    method."""

    def __init__(self, folder: str | os.PathLike, about: dict):
        self.path = Path(folder) / FILE
        self.document = {"format": FORMAT, "about": about, "points": []}
        if self.path.is_file():
            try:
                found = json.loads(self.path.read_text(encoding="utf-8"))
                same = found["about"]["identity"] == about["identity"] and found["format"] == FORMAT
            except (ValueError, KeyError, TypeError):
                raise InvalidInputError(f"out: {self.path} is no sweep; name another folder") from None
            if not same:
                raise InvalidInputError(
                    f"out: {self.path} is of another model, reference, records, method, seed or memory, or of an "
                    "earlier version; name another folder, or remove it"
                )
            self.document = found

    @property
    def points(self) -> list[dict]:
        return self.document["points"]

    def has(self, settings: dict) -> bool:
        """Whether this run is there already."""
        return any(point["settings"] == settings for point in self.points)

    def add(self, point: dict) -> None:
        """Adds a run, marks the front anew, and writes the file whole."""
        self.points.append(point)
        done = [one for one in self.points if one["error"] is None]
        for one, flag in zip(done, pareto(done, ("seconds", "peak_bytes", "damage", "left")), strict=True):
            one["on_front"] = flag
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.document)


def _identity(model, reference, method: str, sets: Mapping[str, Sequence[Encoded]], seed: int, memory: int) -> str:
    """A digest of what a sweep belongs to; of the records it keeps no text. The reference is part of it: damage and
    what is left are measured from it, and runs with another one cannot stand in one table. So is the memory, which
    decides blocks, seconds and bytes."""
    own, other = (one and fingerprint(dict(one.named_parameters())) for one in (model, reference))
    digest = hashlib.sha256(f"{method} {seed} {own} {other or 'original'} {memory}".encode())
    for name, samples in sets.items():
        digest.update(name.encode())
        for sample in samples:
            digest.update(sample.input_ids.numpy().tobytes() + sample.labels.numpy().tobytes())
    return digest.hexdigest()


def sweep(
    model: nn.Module,
    *,
    forget: Sequence[Encoded],
    retain: Sequence[Encoded],
    held_out: Sequence[Encoded],
    out: str | os.PathLike,
    pad_token_id: int,
    method: str = "fisher-removal",
    axes: Axis | None = None,
    fixed: Mapping | None = None,
    full: bool = False,
    reference: nn.Module | None = None,
    seed: int = 0,
    memory: int | str = "1GB",
    progress: Progress | None = None,
) -> Sweep:
    """Runs ``method`` with every setting of ``axes`` (default: those of AXES that it has) from the model's weights.

    A run's ``damage`` is the KL on the retained records, from the ``reference`` (retrained) model where one is given,
    else from the original, in nats per target token; ``left``: how far the forget accuracy is above that of the
    reference on the forget records (of the original on the held-out ones without a reference); ``seconds`` and
    ``peak_bytes`` as in UnlearnResult. The model is left as it was. Raises InvalidInputError, and for a sweep of
    something else in ``out``.
    """
    row, pad = get_method(method), {"pad_token_id": pad_token_id}
    axes = axes_of(method) if axes is None else axes
    points = points_of(method, axes, full=full, fixed=fixed)
    sets = {"forget": forget, "retain": retain, "held_out": held_out}
    if reference is None:
        target = token_scores(model, held_out, **pad).accuracy
    else:
        target = token_scores(reference, forget, **pad).accuracy
    truth = reference_log_probs(model if reference is None else reference, retain, **pad)
    machine = info()
    kept = Sweep(out, {
        "identity": _identity(model, reference, method, sets, seed, parse_memory(memory)), "method": method,
        "seed": seed, "target": target,
        "damage_from": "original" if reference is None else "retrained",
        "records": {name: len(samples) for name, samples in sets.items()},
        "weights": sum(p.numel() for p in model.parameters()), "machine": machine["machine"],
        "threads": machine["threads"], "versions": machine["versions"],
        "original": _measured(model, forget, retain, truth, target, pad),
        "reference": None if reference is None else _measured(reference, forget, retain, truth, target, pad),
    })  # fmt: skip
    with (progress or NO_PROGRESS).task(f"Sweep of {method}", total=len(points), unit="run") as task:
        missing = [settings for settings in points if not kept.has(settings)]
        if missing and any(field.name == "steps" for field in dataclasses.fields(row.settings)):
            # A process's first run loads libraries and sets memory aside, which would count as that run's.
            _one(model, method, missing[0] | {"steps": 1}, sets, truth, target, pad, seed=seed, memory=memory)
        for settings in points:
            if not kept.has(settings):
                kept.add(_one(model, method, settings, sets, truth, target, pad, seed=seed, memory=memory))
            task.advance()
    return kept


def _measured(model, forget, retain, truth, target: float, pad: dict) -> dict:
    gone, kept = token_scores(model, forget, **pad), token_scores(model, retain, **pad)
    return {
        "forget_accuracy": gone.accuracy, "forget_loss": gone.loss, "left": max(0.0, gone.accuracy - target),
        "retain_accuracy": kept.accuracy, "retain_loss": kept.loss, "damage": kl(truth, model, retain, **pad),
    }  # fmt: skip


def _one(model, method: str, settings: dict, sets: dict, truth, target: float, pad: dict, **options) -> dict:
    """One run from the model's weights, which are put back."""
    point = {"settings": settings, "error": None, "on_front": False}
    parameters = dict(model.named_parameters())
    with restored_on_failure(model, parameters) as start:
        try:
            result = unlearn(model, None, method=method, **sets, **options, **settings)
        except FastUnlearnError as error:  # a setting that cannot be run is a result too
            start.restore()
            return point | {"error": str(error)}
        point |= _measured(model, sets["forget"], sets["retain"], truth, target, pad)
        start.restore()
    return point | {
        "seconds": result.seconds, "peak_bytes": result.peak_bytes, "gradients": result.gradients,
        "uses_retain": result.uses_retain, "stopped": result.stopped, "steps": len(result.steps) - 1,
    }  # fmt: skip
