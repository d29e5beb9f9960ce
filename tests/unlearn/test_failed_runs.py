"""Runs that fail on the way: the weights come back bit for bit, whatever was raised and wherever."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.errors import FastUnlearnError
from fastunlearn.unlearn import METHODS, keep_fisher, unlearn
from fastunlearn.unlearn import guard as guard_module
from fastunlearn.unlearn.monitor import Monitor
from tests.unlearn.running import DESCENTS
from tests.unlearn.unchanged import bits, same_bits, unchanged


def options_for(world, method) -> dict:
    """What the method needs beyond records, with no parameter left out."""
    options = {"method": method, "parameters": "*", "target_loss": 99.0}
    if METHODS[method].uses_kept:
        data = world.data["forget"] + world.data["retain"]
        damping = 1e-3 if method == "win-u" else 1e-6  # its one step has no bound but that
        options["kept_fisher"] = keep_fisher(world.model, world.tokenizer, data, damping=damping)
    return options


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("method", METHODS)
def test_after_the_first_step(world, method, error):
    options = options_for(world, method)
    start, moved = bits(world.model), []

    def stop(step):
        if step["step"] == 1:
            moved.append(not same_bits(bits(world.model), start))
            raise error("on purpose")

    with unchanged(world.model), pytest.raises(error, match="on purpose"):
        unlearn(world.model, world.tokenizer, **world.data, **options, on_step=stop)
    assert moved == [True]  # the failure came when there was something to put back


@pytest.mark.parametrize("calls", [1, 2, 4])
def test_within_the_guard(world, monkeypatch, calls):
    """The weights are then those of a trial move, not of any step."""
    options, drift, count = options_for(world, "fisher-removal"), Monitor.drift, []

    def failing(monitor):
        count.append(1)
        if len(count) > calls:
            raise MemoryError("on purpose")
        return drift(monitor)

    monkeypatch.setattr(Monitor, "drift", failing)
    with unchanged(world.model), pytest.raises(MemoryError):
        unlearn(world.model, world.tokenizer, **world.data, **options)


def test_within_the_bisection(world, monkeypatch):
    def failing(monitor, start, step, high):
        start.move(step, high / 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(guard_module, "_least_enough", failing)
    with unchanged(world.model), pytest.raises(KeyboardInterrupt):
        unlearn(world.model, world.tokenizer, **world.data)


@pytest.mark.parametrize("method", METHODS)
def test_a_result_that_is_not_finite(world, monkeypatch, method):
    """Whatever a method does, weights with NaN are never handed over."""
    options = options_for(world, method)

    def look(monitor, step, **more):
        entry = {"step": step, "forget_accuracy": 1.0, "forget_loss": 0.0, "kl_probe": 0.0, **more}
        if step == 1:
            with torch.no_grad():
                world.model.lm_head.weight[0, 0] = torch.nan
            entry["forget_accuracy"], entry["forget_loss"] = 0.0, 100.0  # "reached", so that it ends here
        return entry

    monkeypatch.setattr(Monitor, "look", look)
    with unchanged(world.model), pytest.raises(FastUnlearnError, match="NaN"):
        unlearn(world.model, world.tokenizer, **world.data, **options)


@pytest.mark.parametrize("method", DESCENTS)
def test_a_learning_rate_beyond_all_measure(world, method):
    options = options_for(world, method)
    with unchanged(world.model), pytest.raises(FastUnlearnError):
        unlearn(world.model, world.tokenizer, **world.data, **options, learning_rate=1e30)


def test_a_run_can_follow_a_failed_one(world):
    def stop(step):
        if step["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unlearn(world.model, world.tokenizer, **world.data, on_step=stop)
    first = unlearn(world.model, world.tokenizer, **world.data)
    assert first.stopped.startswith("reached") and first.gradients == 50 * (len(first.steps) - 1)
