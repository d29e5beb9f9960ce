"""Writes docs/guide.md from the sweeps in bench/results: which setting for which size and need.

    python -m bench.guide_page             rewrites docs/guide.md
    python -m bench.guide_page --check     changes nothing; exit status 1 where the page is not what it would write
"""

from __future__ import annotations

import statistics
import sys
from itertools import pairwise
from pathlib import Path

from bench.generated import write_page
from bench.readme_figures import NONE, plain, table
from bench.results_page import RESULTS, ROOT, read
from bench.sweep import FILES
from fastunlearn.evaluation.datasets import DATASETS
from fastunlearn.evaluation.sweep import AXES, NOISE, beats, pareto
from fastunlearn.evaluation.sweep_page import name_of, value_of
from fastunlearn.unlearn import METHODS

PAGE = ROOT / "docs" / "guide.md"
TOLERANCE = 0.05  # above the target that still counts as forgotten, as in the demonstration
HEAD = """# Which settings?

Written by `python -m bench.guide_page` from `bench/results`. Fisher Removal and Kronecker Removal on small models, one
setting varied at a time around the defaults. Which of the two, and what relearning brings back:
[results.md](results.md).

On your own model and records `fastunlearn sweep` makes the same table and a plot, and goes on where it was stopped;
start from what is below and let it decide."""
CURVES = f"""More records in the Fisher should give less damage. A smaller drift for each step buys less damage with
more steps: `step_drift` is the knob of this trade. More steps go further: they forget more and harm more, until the
forget records look like unseen ones in accuracy and in loss, where a run stops by itself. With `fade="mean"` the loss
gets there after the accuracy does on free text, which harms more. On the front are runs that no other one beats: a peak
of memory counts as larger or smaller where it differs by more than {100 * NOISE['peak_bytes']:.0f} %, as it depends on
what earlier runs of the process left."""
ADVICE = {
    "fisher_samples": "Retained records in the Fisher (rank m)",
    "blocks": "Blocks between which curvature counts as zero",
    "damping": "Damping",
    "kind": "Labels of the Fisher: the records' own, or drawn from the model",
    "steps": "Steps at most",
    "step_norm": "Length of a step",
    "step_drift": "What one step may move the retained records' predictions by, nats",
    "fade": "Where the pull fades: one threshold, or that of the unseen token of the same rank",
    "exact_weight": "Weight of the records' exact Fisher beside EK-FAC",
    "curvature": "Kronecker factors with or without corrected eigenvalues",
    "rehearsals": "Steps against relearning, at most",
    "parameters": "Part of the weights that may change",
}


def cases(results: Path, method: str) -> list[dict]:
    """The method's sweeps, one for each data set that was run."""
    records = (read(results / f"sweep-{FILES[method]}{name}.json") for name in DATASETS)
    return [
        case | {"timed": not record["settings"]["note"]}
        for record in records if record is not None for case in record["cases"]
    ]  # fmt: skip


def _done(case: dict) -> list[dict]:
    return [point for point in case["points"] if point["error"] is None]


def _forgot(case: dict, point: dict) -> bool:
    return point["forget_accuracy"] <= case["about"]["target"] + TOLERANCE


def front(case: dict) -> list[bool]:
    """Which runs are on the Pareto front; where the machine did other work, by gradients in the place of seconds."""
    return pareto(_done(case), _keys(case))


def _keys(case: dict) -> tuple[str, ...]:
    return ("seconds" if case["timed"] else "gradients", "peak_bytes", "damage", "left")


def _defaults(case: dict) -> str:
    """Whether the defaults are on the front, and what beats them with the least damage."""
    base = next((point for point in _done(case) if not point["settings"]), None)
    if base is None:
        return "the defaults were not run"
    better = [point for point in _done(case) if beats(point, base, _keys(case))]
    if not better:
        return "the defaults are on the Pareto front"
    best = min(better, key=lambda point: point["damage"])
    time = _keys(case)[0]
    harm, spent = (plain(best[key] / base[key]) for key in ("damage", time))
    name = name_of(best["settings"])
    return f"the defaults are not on the Pareto front: {name} has {harm} of their damage and {spent} of their {time}"


def _point_row(case: dict, point: dict, on_front: bool) -> list[str]:
    memory = NONE if point["peak_bytes"] is None else f"{point['peak_bytes'] / 2**20:,.0f}"
    return [
        name_of(point["settings"]), "yes" if on_front else "", "yes" if _forgot(case, point) else "no",
        plain(point["forget_accuracy"]), plain(point["retain_accuracy"]), plain(point["damage"]),
        f"{point['gradients']:,}", plain(point["seconds"]) if case["timed"] else NONE, memory,
    ]  # fmt: skip


def case_section(case: dict, label: str) -> str:
    """The table of one data set."""
    about = case["about"]
    rows = [["Settings", "Front", "Forgot", "Forget accuracy", "Retain accuracy", "Damage (KL)", "Gradients", "Seconds",
             "MiB"]]  # fmt: skip
    rows += [_point_row(case, point, flag) for point, flag in zip(_done(case), front(case), strict=True)]
    failed = [f"{name_of(p['settings'])} ({p['error']})" for p in case["points"] if p["error"] is not None]
    sizes = ", ".join(f"{count} {name.replace('_', '-')}" for name, count in about["records"].items())
    start = about["original"]
    more = "" if not failed else "\n\nCould not be run: " + "; ".join(failed) + "."
    return (
        f"### {label}: {about['kind']} ({about['dataset']})\n\nSource: {about['source']}; {sizes} records; "
        f"{about['weights']:,} weights. Target: a forget accuracy of {plain(about['target'])}, that of the retrained "
        f"model. Untouched: forget accuracy {plain(start['forget_accuracy'])}, damage {plain(start['damage'])}.\n\n"
        f"{table(rows)}{more}"
    )


def _values(found: list[dict], axis: str) -> dict[str, list[tuple[dict, dict, dict]]]:
    """By value of the axis: (case, the point, the defaults' point)."""
    by_value: dict[str, list] = {}
    for case in found:
        base = next((point for point in _done(case) if not point["settings"]), None)
        for point in _done(case):
            if base is not None and set(point["settings"]) == {axis}:
                value = point["settings"][axis]
                by_value.setdefault(value_of(axis, value), []).append((case, point, base))
    return by_value


def advice_section(found: list[dict], label: str) -> str:
    """Each value of each setting against the defaults: medians over the data sets."""
    rows = [["Setting", "Value", "Forgot", "Damage, of the defaults'", "Gradients, of theirs", "Memory, of theirs"]]
    for axis, words in ADVICE.items():
        for value, triples in _values(found, axis).items():
            forgot = sum(_forgot(case, point) for case, point, _ in triples)

            def share(key: str, triples=triples) -> str:
                ratios = [point[key] / base[key] for _, point, base in triples if point[key] and base[key]]
                return plain(statistics.median(ratios)) if ratios else NONE

            rows.append([
                words, value, f"{forgot} of {len(triples)}", share("damage"), share("gradients"), share("peak_bytes"),
            ])  # fmt: skip
    return f"### {label}: each setting against the defaults\n\nMedians over {len(found)} data sets.\n\n{table(rows)}"


def monotone_section(found: list[dict], label: str) -> str:
    """Does more compute give less damage? And are the defaults on the front?"""
    lines = []
    for case in found:
        name = case["about"]["dataset"]
        lines.append(f"- {name}: {_defaults(case)}.")
        axes = ("fisher_samples", "step_drift", "steps")
        lines += [f"- {name}: {text}" for axis in axes if (text := _curve(case, axis))]
    return f"### {label}: compute against quality\n\n" + "\n".join(lines)


def _curve(case: dict, axis: str) -> str:
    values = reversed(AXES[axis]) if axis == "step_drift" else AXES[axis]  # the cheapest first
    order = {value_of(axis, value): place for place, value in enumerate(values)}
    points = [p for p in _done(case) if set(p["settings"]) <= {axis}]
    default = [p for p in points if not p["settings"]]
    known = {value_of(axis, p["settings"][axis]): p for p in points if p["settings"]}
    missing = [key for key in order if key not in known]
    if len(missing) == 1 and default:
        known[missing[0]] = default[0]
    chosen = [known[key] for key in order if key in known]
    if len(chosen) < 2:
        return ""
    damages = [p["damage"] for p in chosen]
    falls = all(b <= a for a, b in pairwise(damages))
    shown = ", ".join(
        f"{key}: {plain(known[key]['damage'])}{'' if _forgot(case, known[key]) else ' (not forgotten)'}"
        for key in order if key in known
    )  # fmt: skip
    return f"damage by {axis} ({shown}) {'falls' if falls else 'does not fall all the way'}."


def page(results: Path = RESULTS) -> str:
    """The whole page."""
    parts, absent = [HEAD, CURVES], []
    for method in FILES:
        found, label = cases(results, method), METHODS[method].label
        run = {case["about"]["dataset"] for case in found}
        absent += [f"- {label}: {name}" for name in DATASETS if name not in run]
        if found:
            parts += [f"## {label}", advice_section(found, label), monotone_section(found, label)]
            parts += [case_section(case, label) for case in found]
    missing = "\n".join(absent) or "Nothing: all data sets were run."
    parts.append(f"## Not run\n\n{missing}")
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str] | None = None) -> int:
    about = __doc__.splitlines()[0]
    return write_page("bench.guide_page", about, PAGE, RESULTS, lambda _, results: page(results), arguments)


if __name__ == "__main__":
    sys.exit(main())
