"""What methods are compared on: records as tokens, the model that has learnt them, and the one retrained without."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from fastunlearn.data import encode, train_tokenizer
from fastunlearn.data.encode import Encoded
from fastunlearn.data.people import Canary
from fastunlearn.progress import NO_PROGRESS, Progress
from fastunlearn.resources import measured
from fastunlearn.storage import load_model, save_model
from fastunlearn.training import TrainingLog, train

from .datasets import EvaluationSet
from .small_model import make_model

__all__ = ["Subject", "Trained", "make_subject", "train_one"]

_COST = "training.json"


@dataclass
class Trained:
    """A model with what its training cost: seconds of wall time, bytes above those at the start (None: unknown)."""

    model: nn.Module
    log: TrainingLog
    seconds: float
    peak_bytes: int | None


@dataclass(kw_only=True)
class Subject:
    """Tokenizer, encoded sets, secrets, the original model and the one retrained without the forget records (same
    initial weights, same number of steps)."""

    tokenizer: object
    forget: list[Encoded]
    retain: list[Encoded]
    held_out: list[Encoded]
    original: Trained
    reference: Trained
    fresh: list[Encoded] = field(default_factory=list)
    canaries: Sequence[Canary] = ()

    @property
    def pad_token_id(self) -> int:
        return self.tokenizer.pad_token_id


def train_one(
    what: str, make: Callable[[], nn.Module], tokenizer, samples: list[Encoded], *, seed: int,
    progress: Progress | None = None, **training,
) -> Trained:  # fmt: skip
    """A model of ``make`` trained on the samples; ``training``: of :func:`fastunlearn.training.train`."""
    progress, model = progress or NO_PROGRESS, make()
    with progress.task(f"{what} model", total=1, unit="model") as task, measured() as usage:
        log = train(model, samples, seed=seed, pad_token_id=tokenizer.pad_token_id, progress=progress, **training)
        task.advance()
        task.note(f"{log.steps} steps, loss {log.losses[-1]:.3f}")
    return Trained(model, log, usage.seconds, usage.peak_bytes)


def _kept(folder: Path, what: str, make: Callable[[], Trained], tokenizer) -> Trained:
    """What ``make`` gives, or what it gave in an earlier run and was saved under ``folder``."""
    place = folder / what.lower()
    if place.is_dir():
        cost = json.loads((place / _COST).read_text(encoding="utf-8"))
        return Trained(load_model(place)[0], TrainingLog(**cost.pop("log")), **cost)
    made = make()
    cost = {"log": dataclasses.asdict(made.log), "seconds": made.seconds, "peak_bytes": made.peak_bytes}
    save_model(made.model, tokenizer, place, extra={_COST: cost})
    return made


def make_subject(
    data: EvaluationSet,
    seed: int = 0,
    *,
    layers: int = 3,
    width: int = 96,
    steps: int = 800,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    keep: str | os.PathLike | None = None,
    progress: Progress | None = None,
) -> Subject:
    """Trains a tokenizer and both models on the data set. ``keep``: a folder to keep the models in; a second call with
    it takes them from there, so it must be of the same data, seed and sizes."""
    tokenizer = train_tokenizer(data.texts(), kind=data.tokenizer, vocab_size=data.vocabulary)

    def tokens(records, name: str) -> list[Encoded]:
        return encode(records, tokenizer, max_length=data.context, name=name)

    sets = {name: tokens(records, name) for name, records in data.sets.items()}
    retained = tokens(data.repeated(data.retain), "retain")
    learnt = {"Original": tokens(data.repeated(data.forget), "forget") + retained, "Retrained": retained}
    found = {}
    for what, samples in learnt.items():

        def one(what=what, samples=samples) -> Trained:
            return train_one(
                what, lambda: make_model(tokenizer, seed, layers=layers, width=width, context=data.context), tokenizer,
                samples, seed=seed, progress=progress, steps=steps, batch_size=batch_size, learning_rate=learning_rate,
            )  # fmt: skip

        found[what] = one() if keep is None else _kept(Path(keep), what, one, tokenizer)
    return Subject(
        tokenizer=tokenizer, **sets, canaries=data.canaries, original=found["Original"], reference=found["Retrained"]
    )
