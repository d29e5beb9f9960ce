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
from bench.readme_figures import NONE, middle, plain, table
from bench.results_page import RESULTS, ROOT
from bench.sweep import FILES, SEEDS
from bench.sweep_cases import DEFAULTS, Seed, Swept, swept_datasets
from fastunlearn.evaluation.datasets import DATASETS
from fastunlearn.evaluation.sweep import AXES, NOISE
from fastunlearn.evaluation.sweep_page import name_of, value_of
from fastunlearn.unlearn import METHODS

PAGE = ROOT / "docs" / "guide.md"
HEAD = """# Which settings?

Written by `python -m bench.guide_page` from `bench/results`. Fisher Removal and Kronecker Removal on small models, one
setting varied at a time around the defaults. Which of the two, and what relearning brings back:
[results.md](results.md).

On your own model and records `fastunlearn sweep` makes the same table and a plot, and goes on where it was stopped;
start from what is below and let it decide."""
CURVES = f"""More records in the Fisher should give less damage. A smaller drift for each step buys less damage with
more steps: `step_drift` is the knob of this trade. More steps go further: they forget more and harm more, until the
forget records look like unseen ones in accuracy and in loss, where a run stops by itself. With `fade="mean"` the loss
gets there after the accuracy does on free text, which harms more. On the front of a data set are settings that no other
one beats on every seed: no more time, memory, damage and forget accuracy above the target, and less of one of them. Two
settings of nearly the same effect hardly ever come out equal on one seed. A peak of memory counts as larger or smaller
where it differs by more than {100 * NOISE["peak_bytes"]:.0f} %, as it depends on what earlier runs of the process
left, and damage where it differs by more than {100 * NOISE["damage"]:.1f} %: changing the damping by a thousandth
moves it by up to half a per cent.
Figures are means over the seeds; of damage, targets and untouched models medians, with the least and the most."""
ADVICE = {
    "fisher_samples": "Retained records in the Fisher (rank m)",
    "blocks": "Blocks between which curvature counts as zero",
    "damping": "Damping",
    "kind": "Labels of the Fisher: the records' own, or drawn from the model",
    "steps": "Steps at most",
    "step_norm": "Length of a step",
    "step_drift": "What one step may move the retained records' predictions by, nats",
    "fade": "Where the pull fades: at the mean of unseen tokens, at that of the same rank, or between",
    "exact_weight": "Weight of the records' exact Fisher beside EK-FAC",
    "curvature": "Kronecker factors with or without corrected eigenvalues",
    "products": "Exact Gauss-Newton products for each step, at most",
    "rehearsals": "Steps against relearning, at most",
    "parameters": "Part of the weights that may change",
}


def _defaults(found: Swept) -> str:
    """Whether the defaults are on the front, and what beats them with the least damage."""
    if DEFAULTS not in found.names:
        return "the defaults were not run"
    alone = sum(seed.on_front(DEFAULTS) for seed in found.seeds)
    of_each = "" if len(found.seeds) == 1 else f" (on that of a single seed: {alone} of {len(found.seeds)})"
    if better := found.beaten_by(DEFAULTS):
        return f"the defaults are not on the Pareto front{of_each}: {_against(found, better)}"
    barely = found.beaten_by(DEFAULTS, any_damage=True)
    less = f"; were any difference of damage to count, not: {_against(found, barely)}" if barely else ""
    return f"the defaults are on the Pareto front{of_each}{less}"


def _against(found: Swept, names: list[str]) -> str:
    """Which of these settings harms least, next to the defaults."""
    best, time = min(names, key=lambda name: found.mean(name, "damage")), found.seeds[0].keys[0]
    harm, spent = (found.mean(best, key) / found.mean(DEFAULTS, key) for key in ("damage", time))
    return f"{name_of(found.settings(best))} has {harm:.4g} of their damage and {plain(spent)} of their {time}"


def _row(found: Swept, name: str) -> list[str]:
    peaks, timed = found.values(name, "peak_bytes"), all(seed.timed for seed in found.seeds)
    memory = NONE if None in peaks else f"{statistics.fmean(peaks) / 2**20:,.0f}"
    accuracies = [plain(found.mean(name, f"{kind}_accuracy")) for kind in ("forget", "retain")]
    return [
        name_of(found.settings(name)), "" if found.beaten_by(name) else "yes",
        f"{found.forgot(name)} of {len(found.seeds)}", *accuracies, middle(found.values(name, "damage"), spread=True),
        f"{found.mean(name, 'gradients'):,.0f}", plain(found.mean(name, "seconds")) if timed else NONE, memory,
    ]  # fmt: skip


def dataset_section(found: Swept, label: str) -> str:
    """The table of one data set."""
    about = found.about
    rows = [["Settings", "Front", "Forgot", "Forget accuracy", "Retain accuracy", "Damage (KL)", "Gradients", "Seconds",
             "MiB"]]  # fmt: skip
    rows += [_row(found, name) for name in found.names]
    failed = [
        f"{name_of(run['settings'])} ({run['error']}; seed {seed.about['seed']})"
        for seed in found.seeds for run in seed.failed
    ]  # fmt: skip
    sizes = ", ".join(f"{count} {name.replace('_', '-')}" for name, count in about["records"].items())
    seeds = ", ".join(str(seed.about["seed"]) for seed in found.seeds)
    targets = middle([seed.about["target"] for seed in found.seeds], spread=True)
    untouched = [
        middle([seed.about["original"][key] for seed in found.seeds], spread=True)
        for key in ("forget_accuracy", "damage")
    ]
    more = "" if not failed else "\n\nCould not be run: " + "; ".join(failed) + "."
    return (
        f"### {label}: {about['kind']} ({about['dataset']})\n\nSource: {about['source']}; {sizes} records; "
        f"{about['weights']:,} weights; seeds {seeds}. Target: a forget accuracy of {targets}, that of the retrained "
        f"model. Untouched: forget accuracy {untouched[0]}, damage {untouched[1]}.\n\n{table(rows)}{more}"
    )


def _values(datasets: list[Swept], axis: str) -> dict[str, list[tuple[Seed, str]]]:
    """By value of the axis: a seed of a data set, and the setting's name there."""
    by_value: dict[str, list] = {}
    for found in datasets:
        for name in found.names:
            settings = found.settings(name)
            if DEFAULTS in found.names and set(settings) == {axis}:
                runs = by_value.setdefault(value_of(axis, settings[axis]), [])
                runs += [(seed, name) for seed in found.seeds]
    return by_value


def advice_section(datasets: list[Swept], label: str) -> str:
    """Each value of each setting against the defaults: medians over data sets and seeds."""
    rows = [["Setting", "Value", "Forgot", "Damage, of the defaults'", "Gradients, of theirs", "Memory, of theirs"]]
    for axis, words in ADVICE.items():
        for value, runs in _values(datasets, axis).items():
            forgot = sum(seed.forgot(name) for seed, name in runs)

            def share(key: str, runs=runs) -> str:
                pairs = [(seed.runs[name][key], seed.runs[DEFAULTS][key]) for seed, name in runs]
                ratios = [one / base for one, base in pairs if one and base]
                return plain(statistics.median(ratios)) if ratios else NONE

            rows.append([
                words, value, f"{forgot} of {len(runs)}", share("damage"), share("gradients"), share("peak_bytes"),
            ])  # fmt: skip
    count = sum(len(found.seeds) for found in datasets)
    over = f"Medians over {len(datasets)} data sets, {count} pairs of data set and seed."
    return f"### {label}: each setting against the defaults\n\n{over}\n\n{table(rows)}"


def monotone_section(datasets: list[Swept], label: str) -> str:
    """Does more compute give less damage? And are the defaults on the front?"""
    lines = []
    for found in datasets:
        name = found.about["dataset"]
        lines.append(f"- {name}: {_defaults(found)}.")
        axes = ("fisher_samples", "step_drift", "steps")
        lines += [f"- {name}: {text}" for axis in axes if (text := _curve(found, axis))]
    return f"### {label}: compute against quality\n\n" + "\n".join(lines)


def _curve(found: Swept, axis: str) -> str:
    values = reversed(AXES[axis]) if axis == "step_drift" else AXES[axis]  # the cheapest first
    order = {value_of(axis, value): place for place, value in enumerate(values)}
    known = {
        value_of(axis, found.settings(name)[axis]): name for name in found.names if set(found.settings(name)) == {axis}
    }
    missing = [key for key in order if key not in known]
    if len(missing) == 1 and DEFAULTS in found.names:
        known[missing[0]] = DEFAULTS
    chosen = [known[key] for key in order if key in known]
    if len(chosen) < 2:
        return ""
    falls = all(found.mean(b, "damage") <= found.mean(a, "damage") for a, b in pairwise(chosen))

    def shown(key: str) -> str:
        forgot, count = found.forgot(known[key]), len(found.seeds)
        words = "" if forgot == count else " (not forgotten)" if not forgot else f" (forgot {forgot} of {count})"
        return f"{key}: {plain(found.mean(known[key], 'damage'))}{words}"

    text = ", ".join(shown(key) for key in order if key in known)
    return f"mean damage by {axis} ({text}) {'falls' if falls else 'does not fall all the way'}."


def page(results: Path = RESULTS) -> str:
    """The whole page."""
    parts, absent = [HEAD, CURVES], []
    for method in FILES:
        found, label = swept_datasets(results, method), METHODS[method].label
        run = {one.about["dataset"] for one in found}
        absent += [f"- {label}: {name}" for name in DATASETS if name not in run]
        for one in found:
            seeds = {seed.about["seed"] for seed in one.seeds}
            absent += [f"- {label}: {one.about['dataset']}, seed {seed}" for seed in SEEDS if seed not in seeds]
        if found:
            parts += [f"## {label}", advice_section(found, label), monotone_section(found, label)]
            parts += [dataset_section(one, label) for one in found]
    missing = "\n".join(absent) or "Nothing: all data sets and seeds were run."
    parts.append(f"## Not run\n\n{missing}")
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str] | None = None) -> int:
    about = __doc__.splitlines()[0]
    return write_page("bench.guide_page", about, PAGE, RESULTS, lambda _, results: page(results), arguments)


if __name__ == "__main__":
    sys.exit(main())
