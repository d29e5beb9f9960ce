"""The report as data: what report.json holds, built and checked in one place."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping

from fastunlearn.audit._schema import boolean, each_value, fields, json_ready, list_of, number, optional, text
from fastunlearn.errors import InvalidInputError

__all__ = ["FIRST_ORDER", "SCHEMA", "build_document", "entry", "is_first_order", "result_entry", "validate"]

SCHEMA = 1
#: The built-in methods that use gradients alone; every other one uses curvature. An entry may say otherwise
#: for itself with "first_order": true, false, or null where it is not known.
FIRST_ORDER = frozenset(
    {
        "gradient-ascent", "gradient-difference", "npo", "npo-retain", "simnpo", "bounded-ascent", "bounded-difference",
        "kl-ascent", "rmu", "finetune",
    }
)  # fmt: skip

_SHARE = number(0, 1)
_MAYBE_SHARE = number(0, 1, null=True)
_KL = number(0, null=True)
_POINT = {"forget_accuracy": _MAYBE_SHARE, "kl_retain": _KL, "retain_accuracy": _MAYBE_SHARE}
_SET = optional(fields({"loss": number(), "perplexity": number(0, null=True), "accuracy": _SHARE}))
_CANARY = fields(
    {"rank": number(1), "candidates": number(2, whole=True), "bits": number(0), "forgotten": boolean}
)
_METRICS = fields(
    {
        "forget": _SET,
        "retain": _SET,
        "held_out": _SET,
        "kl_forget": _KL,
        "kl_retain": _KL,
        "kl_held_out": _KL,
        "exposure": list_of(_CANARY),
        "exposure_forget": number(0, null=True),
        "exposure_retain": number(0, null=True),
        "membership": optional(fields({"auc": _SHARE, "low": _SHARE, "high": _SHARE})),
    }
)
_ESTIMATE = fields({"value": number(null=True), "low": number(null=True), "high": number(null=True)})
_SIDE = fields({"before": _ESTIMATE, "after": _ESTIMATE, "regained": _ESTIMATE})
_MEASURE = fields(
    {
        "model": _SIDE,
        "reference": optional(_SIDE),
        "excess": optional(_ESTIMATE),
        "ratio": optional(_ESTIMATE),
        "after_ratio": optional(_ESTIMATE),
    }
)
#: What evaluate_metrics and run_attacks give; an entry may hold them.
_FURTHER = {
    "more_metrics": each_value(each_value(_ESTIMATE)),
    "attacks": each_value(fields({"measures": each_value(_MEASURE), "records": number(1, whole=True)})),
}
_ENTRY = fields(
    {
        "label": text,
        "uses_retain": boolean,
        "gradients": number(0, whole=True),
        "seconds": number(0),
        "peak_bytes": number(0, whole=True, null=True),
        "forget_accuracy": _SHARE,
        "retain_accuracy": _MAYBE_SHARE,
        "held_out_accuracy": _MAYBE_SHARE,
        "kl_retain": _KL,
        "kl_forget": _KL,
        "metrics": _METRICS,
        "settings": each_value(json_ready),
        "stopped": text,
        "steps": list_of(fields({}, _POINT)),
        "frontier": list_of(fields({}, _POINT)),
    },
    {"first_order": optional(boolean), **_FURTHER},
)
_FREE = each_value(json_ready)
_DOCUMENT = fields(
    {
        "schema": number(SCHEMA, SCHEMA, whole=True),
        "title": text,
        "created": text,
        "seed": number(whole=True, null=True),
        "versions": _FREE,
        "machine": _FREE,
        "data": _FREE,
        "model": _FREE,
        "settings": fields({}, {"target_forget_accuracy": _SHARE, "target_tolerance": _SHARE}),
        "original": _ENTRY,
        "reference": optional(_ENTRY),
        "methods": each_value(_ENTRY),
        "notes": list_of(text),
    },
    closed=True,
)


def is_first_order(name: str, item: Mapping) -> bool | None:
    """Whether the method ``name`` with the entry ``item`` uses gradients alone; None where that is not known."""
    return item.get("first_order", name in FIRST_ORDER)


def _accuracy(metrics: Mapping, name: str) -> float | None:
    return None if metrics[name] is None else metrics[name]["accuracy"]


def entry(
    label: str,
    metrics: dict,
    *,
    uses_retain: bool = False,
    gradients: int = 0,
    seconds: float = 0.0,
    peak_bytes: int | None = None,
    settings: Mapping | None = None,
    stopped: str = "",
    steps: Iterable[Mapping] = (),
    frontier: Iterable[Mapping] = (),
) -> dict:
    """One model of the report. ``metrics``: from :func:`fastunlearn.audit.measure.measure`.

    ``gradients``: gradient evaluations, one for each sample and pass. ``steps``: the way to the end, and
    ``frontier``: other settings that were tried; of both, points with ``forget_accuracy`` and ``kl_retain``
    are plotted. Raises InvalidInputError for what the schema does not allow.
    """
    item = {
        "label": label,
        "uses_retain": uses_retain,
        "gradients": gradients,
        "seconds": seconds,
        "peak_bytes": peak_bytes,
        "forget_accuracy": _accuracy(metrics, "forget"),
        "retain_accuracy": _accuracy(metrics, "retain"),
        "held_out_accuracy": _accuracy(metrics, "held_out"),
        "kl_retain": metrics["kl_retain"],
        "kl_forget": metrics["kl_forget"],
        "metrics": metrics,
        "settings": dict(settings or {}),
        "stopped": stopped,
        "steps": [dict(step) for step in steps],
        "frontier": [dict(point) for point in frontier],
    }
    _ENTRY(f"entry {label!r}", item)
    return item


def result_entry(label: str, metrics: dict, result, *, frontier: Iterable[Mapping] = ()) -> dict:
    """:func:`entry` with cost, settings and steps of ``result``, an ``UnlearnResult``."""
    return entry(
        label,
        metrics,
        uses_retain=result.uses_retain,
        gradients=result.gradients,
        seconds=result.seconds,
        peak_bytes=result.peak_bytes,
        settings=result.settings,
        stopped=result.stopped,
        steps=result.steps,
        frontier=frontier,
    )


def build_document(
    *,
    title: str,
    original: dict,
    methods: Mapping[str, dict],
    reference: dict | None = None,
    seed: int | None = None,
    created: str | None = None,
    data: Mapping | None = None,
    model: Mapping | None = None,
    settings: Mapping | None = None,
    versions: Mapping | None = None,
    machine: Mapping | None = None,
    notes: Iterable[str] = (),
) -> dict:
    """The checked report document (``report.json``).

    ``original``, ``reference`` (the retrained model) and ``methods`` hold entries (:func:`entry`).
    ``settings`` may set ``target_forget_accuracy`` (0 to 1; without it the retrained model's) and
    ``target_tolerance`` (0.02): a method has forgotten where its forget accuracy is at most their sum.
    ``versions`` and ``machine`` come from :func:`fastunlearn.info.info` where they are not given; ``created``
    is today's date (UTC). Raises InvalidInputError, naming the place in the document.
    """
    if versions is None or machine is None:
        from fastunlearn.info import info

        state = info()
        gpus = [device["name"] for device in state["cuda"]["devices"]]
        here = {**state["machine"], "threads": state["threads"], "gpus": gpus}
        versions = state["versions"] if versions is None else versions
        machine = here if machine is None else machine
    document = {
        "schema": SCHEMA,
        "title": title,
        "created": created or datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seed": seed,
        "versions": dict(versions),
        "machine": dict(machine),
        "data": dict(data or {}),
        "model": dict(model or {}),
        "settings": dict(settings or {}),
        "original": original,
        "reference": reference,
        "methods": dict(methods),
        "notes": list(notes),
    }
    validate(document)
    return document


def validate(document: dict) -> None:
    """Raise InvalidInputError, naming the place and the mend, where ``document`` is not a report document."""
    if not isinstance(document, dict):
        raise InvalidInputError(f"document: must be a dictionary, got {type(document).__name__}")
    if document.get("schema", SCHEMA) != SCHEMA:
        raise InvalidInputError(
            f"document: schema {document['schema']!r} is not known here (this version reads {SCHEMA}); "
            "make the report with this version of fastunlearn"
        )
    try:
        _DOCUMENT("report", document)
    except RecursionError:
        raise InvalidInputError("document: it is nested too deep to be a report document") from None
