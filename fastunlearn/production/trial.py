"""Trial passes on this machine: the configured method on a part of the records, timed, and taken to all of them.

The method itself is run, on the real model or one of the same shapes, with the same share of all sets and of the memory
(so that factors fit, or do not fit, as they will), up to its first steps; then it is stopped and the weights are put
back. Time and memory at several shares are fitted by a + b s + c s^2 with no negative part: passes are linear in the
records, Gram matrices quadratic. The share doubles until the time for calibration is spent or all records are used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from fastunlearn.resources import measured, parse_memory
from fastunlearn.unlearn import unlearn
from fastunlearn.unlearn.snapshot import Snapshot

__all__ = ["Fit", "Trial", "first_share", "fit", "growing", "method_trials", "sized"]

PROBE = 256  # the monitor's probe: a smaller share of the records would make it smaller too
LOOKS = 3  # of a method whose steps are many and small


class _Enough(Exception):
    """Ends a trial. The weights are put back, as after any error."""


@dataclass(frozen=True)
class Trial:
    """One trial: the ``share`` of the records, seconds until the first look, seconds of the first step and of each
    further one, gradients of a step, peak bytes above the start."""

    share: float
    setup: float
    first: float
    further: float
    gradients: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Fit:
    """``value(s)`` = a + b s + c s^2."""

    coefficients: tuple[float, float, float]

    def value(self, share: float = 1.0) -> float:
        a, b, c = self.coefficients
        return a + b * share + c * share * share


def fit(shares: Sequence[float], values: Sequence[float]) -> Fit:
    """The fit with the least relative error whose coefficients are not negative. One point is taken as proportional,
    two as a line or, where that would begin below 0, as b s + c s^2."""
    s, y = np.asarray(shares, dtype=float), np.asarray(values, dtype=float)
    terms = np.stack([np.ones_like(s), s, s * s], 1)
    weights = 1 / np.maximum(y, 1e-9)
    best, least = (0.0, float(y[-1] / s[-1]), 0.0), np.inf
    every = [chosen for n in (1, 2, 3) for chosen in combinations(range(3), n)]
    columns = {1: [(1,)], 2: [(0,), (1,), (0, 1), (1, 2)]}.get(len(s), every)
    for chosen in columns:
        found, *_ = np.linalg.lstsq(terms[:, chosen] * weights[:, None], y * weights, rcond=None)
        if (found < 0).any():
            continue
        error = float(np.square((terms[:, chosen] @ found - y) * weights).sum()) * (1 + 1e-9 * len(chosen))
        if error < least:
            whole = np.zeros(3)
            whole[list(chosen)] = found
            best, least = tuple(map(float, whole)), error
    return Fit(best)


def _part(samples: list | None, share: float, least: int) -> list | None:
    if samples is None:
        return None
    count = min(len(samples), max(least, round(share * len(samples))))
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))[:count]
    return [samples[i] for i in sorted(order.tolist())]


def sized(sets: dict[str, list | None], share: float) -> dict[str, list | None]:
    """About this share of each set, drawn once for all."""
    return {name: _part(samples, share, 8 if name == "retain" else 2) for name, samples in sets.items()}


def _one(model, tokenizer, sets, share: float, arguments: dict, limit: float, looks: int, start: Snapshot) -> Trial:
    marks: list[tuple[int, float, int]] = []

    def on_step(step: dict) -> None:
        marks.append((step["step"], time.perf_counter(), step.get("gradients", 0)))
        spent = marks[-1][1] - started
        if len(marks) > looks or (len(marks) > 1 and spent > limit):
            raise _Enough

    memory = max(1 << 20, int(parse_memory(arguments["memory"]) * share))
    started = time.perf_counter()
    try:
        with measured(next(model.parameters()).device) as usage:
            unlearn(model, tokenizer, **sized(sets, share), **{**arguments, "memory": memory}, on_step=on_step)
        start.restore()  # it ended by itself, before it was stopped
    except _Enough:
        pass
    ended = time.perf_counter()
    setup = (marks[0][1] if marks else ended) - started
    if len(marks) < 2:  # nothing to do, or no step was possible
        return Trial(share, setup, max(0.0, ended - started - setup), 0.0, 0.0, usage.peak_bytes)
    per_step = (marks[1][1] - marks[0][1]) / max(1, marks[1][0])
    later = marks[-1][0] - marks[1][0]
    further = (marks[-1][1] - marks[1][1]) / later if later else per_step
    gradients = marks[-1][2] / max(1, marks[-1][0])
    return Trial(share, setup, per_step, further, gradients, usage.peak_bytes)


def method_trials(
    model,
    tokenizer,
    sets: dict[str, list | None],
    arguments: dict,
    *,
    seconds: float,
    looks: int,
    whole: bool = False,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> tuple[list[Trial], float]:
    """Trials of ``unlearn(**arguments)`` at growing shares of the encoded ``sets``, at least one, until about
    ``seconds`` are spent (with ``whole``, of a method whose steps are as long for any number of records, one with all
    of them); and the seconds of a first small one, which loads modules and kernels as every run does."""
    share, start = 1.0 if whole else first_share(sets), Snapshot(dict(model.named_parameters()))
    began = time.perf_counter()
    _one(model, tokenizer, sets, share / 16, arguments, 0.0, 1, start)
    warming = time.perf_counter() - began
    trials: list[Trial] = []

    def one(share: float) -> None:
        trials.append(_one(model, tokenizer, sets, share, arguments, seconds, looks, start))
        on_trial(trials[-1])

    growing(one, share, seconds)
    return trials, warming


def first_share(sets: dict[str, list | None]) -> float:
    """The least share that says something: as many records of the largest set as the probe has."""
    return min(1.0, PROBE / max(len(samples) for samples in sets.values() if samples))


def growing(one: Callable[[float], object], share: float, seconds: float) -> None:
    """Calls ``one(share)`` with shares that double, until all is used or another would take more than ``seconds``."""
    began = last = time.perf_counter()
    while True:
        one(share)
        cost, last = time.perf_counter() - last, time.perf_counter()
        if share == 1.0 or last - began + 3 * cost > seconds:
            return
        share = min(1.0, 2 * share)
