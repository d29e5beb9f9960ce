"""The sweeps in bench/results as the guide looks at them: one data set, all its seeds.

On a data set's front are the settings that no other one beats on every seed. On one seed two settings of nearly the
same effect hardly ever come out equal, so that one of them beats the other there by chance; a setting that is better
beats it on all.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from bench.results_page import read
from bench.sweep import FILES
from fastunlearn.evaluation.datasets import DATASETS
from fastunlearn.evaluation.sweep import NOISE, beats, pareto

TOLERANCE = 0.05  # above the target that still counts as forgotten, as in the demonstration


def name_for(settings: dict) -> str:
    """What tells one setting from another."""
    return json.dumps(settings, sort_keys=True)


DEFAULTS = name_for({})


class Seed:
    """One seed's runs of one data set, by their settings; those that failed are left out."""

    def __init__(self, case: dict, timed: bool):
        self.about, self.timed = case["about"], timed
        self.runs = {name_for(run["settings"]): run for run in case["points"] if run["error"] is None}
        self.failed = [run for run in case["points"] if run["error"] is not None]

    @property
    def keys(self) -> tuple[str, ...]:
        """What a run should have little of; where the machine did other work, gradients in the place of seconds."""
        return ("seconds" if self.timed else "gradients", "peak_bytes", "damage", "left")

    def forgot(self, name: str) -> bool:
        """Whether this setting came to the target."""
        return self.runs[name]["forget_accuracy"] <= self.about["target"] + TOLERANCE

    def on_front(self, name: str) -> bool:
        """Whether no other setting beats this one on this seed."""
        return pareto([self.runs[name], *self.runs.values()], self.keys)[0]


class Swept:
    """All seeds of one data set."""

    def __init__(self, seeds: list[Seed]):
        self.seeds, self.about = seeds, seeds[0].about
        self.names = [name for name in seeds[0].runs if all(name in seed.runs for seed in seeds)]

    def settings(self, name: str) -> dict:
        """The settings of that name."""
        return self.seeds[0].runs[name]["settings"]

    def values(self, name: str, key: str) -> list:
        """What was measured, seed by seed."""
        return [seed.runs[name][key] for seed in self.seeds]

    def mean(self, name: str, key: str) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values(name, key))

    def forgot(self, name: str) -> int:
        """On how many seeds."""
        return sum(seed.forgot(name) for seed in self.seeds)

    def beaten_by(self, name: str, *, any_damage: bool = False) -> list[str]:
        """The settings that beat this one on every seed; with ``any_damage`` the least difference of damage counts."""
        noise = NOISE | ({"damage": 0.0} if any_damage else {})

        def better(other: str, seed: Seed) -> bool:
            return beats(seed.runs[other], seed.runs[name], seed.keys, noise)

        return [other for other in self.names if all(better(other, seed) for seed in self.seeds)]


def swept_datasets(results: Path, method: str) -> list[Swept]:
    """The method's sweeps, one for each data set that was run."""
    found = []
    for dataset in DATASETS:
        record = read(results / f"sweep-{FILES[method]}{dataset}.json")
        if record is not None:
            timed = not record["settings"]["note"]
            found.append(Swept([Seed(case, timed) for case in record["cases"]]))
    return found
