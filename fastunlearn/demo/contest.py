"""Every method on the same model and records, measured against the retrained model."""

from __future__ import annotations

import copy

from fastunlearn.audit.divergence import kl
from fastunlearn.audit.document import entry, result_entry
from fastunlearn.audit.measure import cache_reference, measure
from fastunlearn.audit.scores import token_scores
from fastunlearn.progress import NO_PROGRESS, Progress
from fastunlearn.unlearn import METHODS, keep_fisher, unlearn
from fastunlearn.unlearn.result import UnlearnResult
from fastunlearn.unlearn.tuning import GRIDS, Trial, tune

from .subject import Subject, Trained

__all__ = ["Contest"]

TRACED = 200  # retained records on which the points along a method's way are measured
POINTS = 12  # at most about so many of them for each run


class Contest:
    """Runs methods from the original weights and turns each into an entry of the report."""

    def __init__(self, subject: Subject, *, seed: int = 0, progress: Progress | None = None):
        self.subject, self.seed, self.progress = subject, seed, progress
        self._sets = {"forget": subject.forget, "retain": subject.retain, "held_out": subject.held_out}
        pad = subject.pad_token_id
        self._reference = cache_reference(subject.reference.model, **self._sets, pad_token_id=pad)
        self.methods: dict[str, dict] = {}

    def _measure(self, model) -> dict:
        subject = self.subject
        return measure(
            model, **self._sets, reference=self._reference, canaries=subject.people.canaries,
            tokenizer=subject.tokenizer, pad_token_id=subject.pad_token_id, seed=self.seed,
        )  # fmt: skip

    def trained(self, label: str, trained: Trained, *, uses_retain: bool) -> dict:
        """The entry of the original or the retrained model; its cost is that of training."""
        return entry(
            label, self._measure(trained.model), uses_retain=uses_retain, gradients=trained.log.gradients,
            seconds=trained.usage.seconds, peak_bytes=trained.usage.peak_bytes, settings={"steps": trained.log.steps},
            stopped=f"all {trained.log.steps} training steps are taken",
        )  # fmt: skip

    def _point(self, model, samples=None) -> dict:
        """Where ``model`` stands on the frontier plot, on all retained records or on some."""
        subject = self.subject
        retain = subject.retain if samples is None else samples
        options = {"pad_token_id": subject.pad_token_id}
        reference = subject.reference.model if samples is not None else self._reference["retain"]
        return {
            "forget_accuracy": token_scores(model, subject.forget, **options).accuracy,
            "retain_accuracy": token_scores(model, retain, **options).accuracy,
            "kl_retain": kl(reference, model, retain, **options),
        }

    def _trace(self, model, every: int):
        """A callback that adds the distance to the retrained model to every so-manieth step."""
        some = self.subject.retain[:: max(1, len(self.subject.retain) // TRACED)]

        def note(step: dict) -> None:
            if step["step"] % every == 0:
                step.update({k: v for k, v in self._point(model, some).items() if k != "forget_accuracy"})

        return note

    def _arguments(self, progress: Progress | None) -> dict:
        return {**self._sets, "seed": self.seed, "progress": progress}

    def run(self, name: str, **options) -> UnlearnResult:
        """One method with given settings."""
        model = copy.deepcopy(self.subject.original.model)
        result = unlearn(
            model, self.subject.tokenizer, method=name, on_step=self._trace(model, 1), **self._arguments(self.progress),
            **options,
        )  # fmt: skip
        self.methods[name] = result_entry(METHODS[name].label, self._measure(model), result)
        return result

    def run_retain_free(self, name: str, *, rank: int, damping: float, **options) -> UnlearnResult:
        """The retain-free method: keeps the full data's Fisher first, then sees the forget records only.

        The held-out records say when enough is forgotten, and are the probe of the guard.
        """
        subject = self.subject
        model = copy.deepcopy(subject.original.model)
        kept = keep_fisher(
            model, subject.tokenizer, subject.forget + subject.retain, rank=rank, damping=damping, progress=self.progress
        )
        arguments = self._arguments(self.progress) | {"retain": None}
        result = unlearn(
            model, subject.tokenizer, method=name, kept_fisher=kept, on_step=self._trace(model, 1), **arguments, **options
        )
        result.settings |= {"rank": kept.rank, "damping": damping}
        self.methods[name] = result_entry(METHODS[name].label, self._measure(model), result)
        return result

    def run_tuned(self, name: str, budget: int) -> Trial:
        """A first-order method with the best settings of its grid, each trial within ``budget`` gradients."""
        model = copy.deepcopy(self.subject.original.model)
        frontier: list[dict] = []
        per_step = 32 if METHODS[name].uses_retain and name != "finetune" else 16
        every = 2 * max(1, round(budget / per_step / POINTS / 2))
        with (self.progress or NO_PROGRESS).task(f"{METHODS[name].label}: tuning", total=len(GRIDS[name]), unit="trial") as task:

            def note(trial: Trial) -> None:
                if trial.result is not None:
                    frontier.append(self._point(model) | {"settings": trial.settings})
                task.advance()

            best, trials = tune(
                model, self.subject.tokenizer, method=name, grid=GRIDS[name], on_trial=note, gradients=budget,
                check_every=2, on_step=self._trace(model, every), **self._arguments(None),
            )  # fmt: skip
        best.result.settings["trials"] = len(trials)
        self.methods[name] = result_entry(METHODS[name].label, self._measure(model), best.result, frontier=frontier)
        return best
