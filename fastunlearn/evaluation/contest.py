"""Every method on the same model and records, measured against the retrained model."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence

import torch

from fastunlearn.audit.bootstrap import Interval, interval
from fastunlearn.audit.divergence import kl, reference_log_probs
from fastunlearn.audit.document import entry, result_entry
from fastunlearn.audit.measure import cache_reference, measure
from fastunlearn.audit.scores import token_scores
from fastunlearn.data.encode import Encoded
from fastunlearn.progress import NO_PROGRESS, Progress
from fastunlearn.solve.kept_fisher import KeptFisher
from fastunlearn.unlearn import METHODS, keep_fisher, unlearn
from fastunlearn.unlearn.descent import DescentSettings
from fastunlearn.unlearn.result import UnlearnResult
from fastunlearn.unlearn.tuning import Trial, tune

from .subject import Subject, Trained

__all__ = ["TOLERANCE", "Contest", "accuracy_interval"]

TOLERANCE = 0.05  # "reached the retrained model's accuracy": within five points
TRACED = 200  # retained records on which the points along a method's way are measured
POINTS = 12  # about so many of them for each trial of a method of many small steps


class Contest:
    """Runs methods from the original weights and turns each into an entry of the report. ``traced``: retained records
    on which the points along a method's way are measured. ``limit``: the highest forget accuracy that counts as
    forgotten (default: the retrained model's and TOLERANCE)."""

    def __init__(
        self, subject: Subject, *, seed: int = 0, traced: int = TRACED, limit: float | None = None,
        progress: Progress | None = None,
    ):  # fmt: skip
        self.subject, self.seed, self.progress = subject, seed, progress or NO_PROGRESS
        self._sets = {"forget": subject.forget, "retain": subject.retain, "held_out": subject.held_out}
        pad, model = {"pad_token_id": subject.pad_token_id}, subject.reference.model
        self._reference = cache_reference(model, **self._sets, **pad)
        self._some = subject.retain[:: max(1, len(subject.retain) // traced)]
        self._some_reference = reference_log_probs(model, self._some, **pad)
        if limit is None:
            limit = token_scores(model, subject.forget, **pad).accuracy + TOLERANCE
        self.limit = limit
        self.methods: dict[str, dict] = {}
        #: As the last tuned method left it.
        self.model = None

    def _measure(self, model) -> dict:
        subject = self.subject
        return measure(
            model, **self._sets, reference=self._reference, canaries=subject.canaries,
            tokenizer=subject.tokenizer, pad_token_id=subject.pad_token_id, seed=self.seed,
        )  # fmt: skip

    def trained(self, label: str, trained: Trained, *, uses_retain: bool) -> dict:
        """The entry of the original or the retrained model; its cost is that of training."""
        return entry(
            label, self._measure(trained.model), uses_retain=uses_retain, gradients=trained.log.gradients,
            seconds=trained.seconds, peak_bytes=trained.peak_bytes, settings={"steps": trained.log.steps},
            stopped=f"all {trained.log.steps} training steps are taken",
        )  # fmt: skip

    def _place(self, model) -> dict:
        """Accuracy and distance to the retrained model on some of the retained records."""
        pad = {"pad_token_id": self.subject.pad_token_id}
        accuracy = token_scores(model, self._some, **pad).accuracy
        return {"retain_accuracy": accuracy, "kl_retain": kl(self._some_reference, model, self._some, **pad)}

    def _trace(self, model, every: int) -> Callable[[dict], None]:
        """A callback that adds :meth:`_place` to every so-manieth look, and to the first at which enough is
        forgotten."""
        looks, crossed = 0, False

        def note(step: dict) -> None:
            nonlocal looks, crossed
            if step["step"] == 0:
                looks, crossed = 0, False  # another trial begins
            first = not crossed and step["forget_accuracy"] <= self.limit
            if first or looks % every == 0 or "back_to_step" in step:
                step.update(self._place(model))
            looks, crossed = looks + 1, crossed or first

        return note

    def _arguments(self) -> dict:
        return {**self._sets, "seed": self.seed, "progress": self.progress}

    def run(self, name: str, **options) -> UnlearnResult:
        """One method with given settings."""
        model = copy.deepcopy(self.subject.original.model)
        with self.progress.task(METHODS[name].label, total=1, unit="run") as task:
            result = unlearn(
                model, self.subject.tokenizer, method=name, on_step=self._trace(model, 1), **self._arguments(),
                **options,
            )  # fmt: skip
            task.advance()
            task.note(result.stopped)
        self.methods[name] = result_entry(METHODS[name].label, self._measure(model), result)
        return result

    def run_retain_free(self, name: str, *, rank: int, damping: float, **options) -> UnlearnResult:
        """The retain-free method: keeps the full data's Fisher first, then sees the forget records only.

        The held-out records say when enough is forgotten, and are the probe of the guard.
        """
        subject = self.subject
        model = copy.deepcopy(subject.original.model)
        with self.progress.task(METHODS[name].label, total=2, unit="part") as task:
            data = subject.forget + subject.retain
            kept = keep_fisher(model, subject.tokenizer, data, rank=rank, damping=damping, progress=self.progress)
            task.advance()
            result = unlearn(
                model, subject.tokenizer, method=name, kept_fisher=kept, on_step=self._trace(model, 1),
                **self._arguments() | {"retain": None}, **options,
            )  # fmt: skip
            task.advance()
            task.note(result.stopped)
        result.settings |= {"rank": kept.rank, "damping": damping}
        self.methods[name] = result_entry(METHODS[name].label, self._measure(model), result)
        return result

    def run_tuned(self, name: str, budget: int, grid: Sequence[dict], *, kept: KeptFisher | None = None) -> Trial:
        """A method with the best settings of ``grid``, each trial within ``budget`` gradients. ``kept``: for a method
        without retained data; settings then may name the ``damping`` to use it with."""
        model = copy.deepcopy(self.subject.original.model)
        label, arguments = METHODS[name].label, self._arguments()
        if kept is not None:
            arguments["retain"] = None
            grid = [
                {key: value for key, value in one.items() if key != "damping"}
                | {"kept_fisher": dataclasses.replace(kept, damping=one.get("damping", kept.damping))}
                for one in grid
            ]
        if issubclass(METHODS[name].settings, DescentSettings):
            arguments["gradients"] = budget
        frontier: list[dict] = []
        with self.progress.task(f"{label}, tuning", total=len(grid), unit="trial") as task:

            def note(trial: Trial) -> None:
                task.advance()
                if trial.result is None:
                    return
                last = trial.result.steps[-1]
                last.update(self._place(model))  # the end of every trial is a point, whether or not it forgot
                enough = [step for step in trial.result.steps if step["forget_accuracy"] <= self.limit]
                enough = [step for step in enough if "kl_retain" in step]
                for step in [last, *([min(enough, key=lambda one: one["kl_retain"])] if enough else [])]:
                    keys = ("forget_accuracy", "retain_accuracy", "kl_retain")
                    frontier.append({key: step[key] for key in keys} | {"settings": _shown(trial.settings)})

            best, trials = tune(
                model, self.subject.tokenizer, method=name, grid=grid, on_trial=note,
                on_step=self._trace(model, self._every(name, budget, grid)), **arguments,
            )  # fmt: skip
        best.result.settings |= {"trials": len(trials), **_shown(best.settings)}
        self.model, self.methods[name] = model, result_entry(
            label, self._measure(model), best.result, frontier=frontier
        )
        return best

    def _every(self, name: str, budget: int, grid: Sequence[dict]) -> int:
        """Every which look is a point: about POINTS of them on the way of many small steps, else all."""
        row = METHODS[name]
        if not issubclass(row.settings, DescentSettings):
            return 1
        per_step = 32 if row.uses_retain and name != "finetune" else 16
        return max(1, round(budget / per_step / grid[0].get("check_every", 1) / POINTS))


def accuracy_interval(model, samples: Sequence[Encoded], *, pad_token_id: int, seed: int = 0) -> Interval:
    """Accuracy over target tokens, with the interval that resampling the records gives."""
    scores = token_scores(model, samples, pad_token_id=pad_token_id)
    right = torch.zeros(scores.samples).index_add_(0, scores.sample, scores.correct.float())
    count = torch.bincount(scores.sample, minlength=scores.samples).float()
    rows = torch.stack([right, count], 1).numpy()
    return interval(lambda some: some[:, 0].sum() / some[:, 1].sum(), rows, seed=seed)


def _shown(settings: dict) -> dict:
    """The settings of a trial as JSON: of a kept Fisher what it was used with."""
    kept = settings.get("kept_fisher")
    plain = {key: value for key, value in settings.items() if key != "kept_fisher"}
    return plain if kept is None else plain | {"damping": kept.damping, "rank": kept.rank, "kind": kept.kind}
