"""A sweep as a table in words, and as the report's plot. Damage is called by what it was measured from: only with a
retrained model is it a distance to retraining."""

from __future__ import annotations

from collections.abc import Mapping

from fastunlearn.audit.document import build_document, entry
from fastunlearn.unlearn import get_method

__all__ = ["name_of", "report_document", "table", "value_of"]

FROM_ORIGINAL = "kl_from_original"


def name_of(settings: Mapping) -> str:
    """The settings of a run in a few characters; "defaults" where there are none."""
    return ", ".join(f"{key}={value_of(key, value)}" for key, value in settings.items()) or "defaults"


def value_of(setting: str, value) -> str:
    """A setting's value as it is shown: None is all of the records, or no limit."""
    if value is not None:
        return str(value)
    return "all" if setting == "fisher_samples" else "none"


def _number(value: float | None, form: str = ".3g") -> str:
    return "–" if value is None else format(value, form)


def table(document: Mapping) -> list[tuple[str, ...]]:
    """Rows of the table of a sweep (``sweep.json``), least damage first among those that forgot to the target; the
    first row is the head."""
    points, about = document["points"], document["about"]
    damage, target = f"Damage (KL from the {about['damage_from']} model)", about["target"]
    rows = [("Settings", "Front", "Seconds", "MiB", "Gradients", "Forget accuracy", "Retain accuracy", damage)]
    done = sorted(
        (one for one in points if one["error"] is None),
        key=lambda one: (one["forget_accuracy"] > target + 0.02, one["damage"]),
    )
    for one in done:
        memory = None if one["peak_bytes"] is None else one["peak_bytes"] / 2**20
        rows.append((
            name_of(one["settings"]), "yes" if one["on_front"] else "", _number(one["seconds"]), _number(memory, ".0f"),
            f"{one['gradients']:,}", _number(one["forget_accuracy"], ".3f"), _number(one["retain_accuracy"], ".3f"),
            _number(one["damage"]),
        ))  # fmt: skip
    rows += [(name_of(one["settings"]), "", "failed", *["–"] * 5) for one in points if one["error"] is not None]
    return rows


def _metrics(one: Mapping, retrained: bool) -> dict:
    """The metrics of the report that a sweep has; the others are None."""
    sets = {
        name: {"loss": one[f"{name}_loss"], "perplexity": None, "accuracy": one[f"{name}_accuracy"]}
        for name in ("forget", "retain")
    }
    return {
        **sets, "held_out": None, "kl_forget": None, "kl_retain": one["damage"] if retrained else None,
        "kl_held_out": None, "exposure": [], "exposure_forget": None, "exposure_retain": None, "membership": None,
    }  # fmt: skip


def _entry(label: str, one: Mapping, retrained: bool, **more) -> dict:
    """An entry whose KL to retraining is the damage with a retrained model; without one it is a metric of its own."""
    found = entry(label, _metrics(one, retrained), **more)
    if retrained:
        return found
    return found | {"more_metrics": {FROM_ORIGINAL: {"retain": {"value": one["damage"], "low": None, "high": None}}}}


def report_document(document: Mapping) -> dict:
    """The report document of a sweep (``sweep.json``): every run is a method of its own."""
    about = document["about"]
    retrained, first_order = about["reference"] is not None, get_method(about["method"]).first_order
    runs = {
        name_of(one["settings"]): _entry(
            name_of(one["settings"]), one, retrained, uses_retain=one["uses_retain"], gradients=one["gradients"],
            seconds=one["seconds"], peak_bytes=one["peak_bytes"], settings=one["settings"], stopped=one["stopped"],
        ) | {"first_order": first_order}
        for one in document["points"] if one["error"] is None
    }  # fmt: skip
    note = (
        "KL is from the retrained model, on retained records." if retrained else
        f"No retrained model was given. {FROM_ORIGINAL} is KL(original || model) on retained records, in nats per "
        "target token, without intervals: how far a run moved the model, not how near it is to retraining."
    )  # fmt: skip
    return build_document(
        title=f"Settings of {about['method']}", seed=about["seed"], methods=runs,
        original=_entry("Original", about["original"], retrained),
        reference=_entry("Retrained", about["reference"], True) if retrained else None,
        data={f"records, {name}": count for name, count in about["records"].items()},
        model={"parameters": about["weights"]}, settings={"target_forget_accuracy": about["target"]},
        versions=about["versions"], machine={**about["machine"], "threads": about["threads"]}, notes=[note],
    )  # fmt: skip
