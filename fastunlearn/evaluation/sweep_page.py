"""A sweep as a table in words, and as the report's plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastunlearn.audit.document import build_document, entry

__all__ = ["name_of", "report_document", "table", "value_of"]


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


def table(points: Sequence[Mapping], target: float) -> list[tuple[str, ...]]:
    """Rows of the table, least damage first among those that forgot to the target; the first row is the head."""
    rows = [("Settings", "Front", "Seconds", "MiB", "Gradients", "Forget accuracy", "Retain accuracy", "Damage (KL)")]
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


def _metrics(one: Mapping) -> dict:
    """The metrics of the report that a sweep has; the others are None."""
    sets = {
        name: {"loss": one[f"{name}_loss"], "perplexity": None, "accuracy": one[f"{name}_accuracy"]}
        for name in ("forget", "retain")
    }
    return {
        **sets, "held_out": None, "kl_forget": None, "kl_retain": one["damage"], "kl_held_out": None, "exposure": [],
        "exposure_forget": None, "exposure_retain": None, "membership": None,
    }  # fmt: skip


def report_document(document: Mapping) -> dict:
    """The report document of a sweep (``sweep.json``): every run is a method of its own."""
    about = document["about"]
    runs = {
        name_of(one["settings"]): entry(
            name_of(one["settings"]), _metrics(one), uses_retain=True, gradients=one["gradients"],
            seconds=one["seconds"], peak_bytes=one["peak_bytes"], settings=one["settings"], stopped=one["stopped"],
        )
        for one in document["points"] if one["error"] is None
    }  # fmt: skip
    return build_document(
        title=f"Settings of {about['method']}", seed=about["seed"], methods=runs,
        original=entry("Original", _metrics(about["original"])),
        data={f"records, {name}": count for name, count in about["records"].items()},
        model={"parameters": about["weights"]}, settings={"target_forget_accuracy": about["target"]},
        versions=about["versions"], machine={**about["machine"], "threads": about["threads"]},
        notes=[f"KL is from the {about['damage_from']} model, on retained records."],
    )  # fmt: skip
