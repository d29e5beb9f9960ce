"""The bound on how far one step may move the probe."""

from __future__ import annotations

import copy
import itertools

import pytest

from fastunlearn.errors import InvalidInputError
from tests.unlearn.running import run
from tests.unlearn.unchanged import bits, same_bits

NEVER = {"target_accuracy": 0.0, "target_loss": 99.0}
METHODS = ["fisher-removal", "kronecker-removal"]


@pytest.mark.parametrize("method", METHODS)
def test_no_step_moves_the_probe_further(world, method):
    limit = 1e-3
    steps = run(world, method, steps=6, step_norm=2.0, step_drift=limit, **NEVER).steps
    drifts = [step["kl_probe"] for step in steps]
    assert all(after - before <= limit * (1 + 1e-6) for before, after in itertools.pairwise(drifts))
    assert steps[1]["scale"] < 1  # the first one was too long
    assert steps[-1]["forget_loss"] > steps[0]["forget_loss"]


@pytest.mark.parametrize("method", METHODS)
def test_a_step_begins_with_the_length_of_the_last_or_half_as_much_more(world, method):
    limit, most = 1e-3, 2.0
    steps = run(world, method, steps=14, step_norm=most, step_drift=limit, **NEVER).steps
    grown = set()
    for before, last, this in zip(steps, steps[1:], steps[2:], strict=False):
        grows = last["kl_probe"] - before["kl_probe"] < limit / 2
        grown.add(grows)
        wanted = min(most, last["step_norm"] * (1.5 if grows else 1.0))
        assert this["step_norm"] / this["scale"] == pytest.approx(wanted, rel=1e-4)
    assert grown == {True, False}  # both were seen


def test_without_it_every_step_has_its_whole_length(world):
    steps = run(world, steps=3, step_norm=0.2, step_drift=None, kl_budget=None, **NEVER).steps
    assert [step["step_norm"] for step in steps[1:]] == pytest.approx([0.2] * 3, rel=1e-4)


def test_a_wide_limit_changes_nothing(world):
    twin = copy.deepcopy(world)
    run(world, steps=3, step_norm=0.05, step_drift=1e3, kl_budget=None, **NEVER)
    run(twin, steps=3, step_norm=0.05, step_drift=None, kl_budget=None, **NEVER)
    assert same_bits(bits(world.model), bits(twin.model))


def test_the_whole_budget_is_kept_too(world):
    """Where the next step's limit would lie above ``kl_budget``, that is what counts."""
    result = run(world, steps=20, step_norm=0.5, step_drift=0.01, kl_budget=0.015, damping=1e-3, **NEVER)
    assert all(step["kl_probe"] <= 0.015 for step in result.steps)


def test_with_no_scale_that_will_do_the_model_stays(world):
    before = bits(world.model)
    result = run(world, steps=3, step_norm=1e6, step_drift=1e-12, damping=1e-3, **NEVER)
    assert result.stopped == "the drift of 1e-12 that a step may have allows no further step"
    assert len(result.steps) == 1 and same_bits(bits(world.model), before)


@pytest.mark.parametrize("value", [0, -1e-3, float("nan"), "much"])
def test_it_must_be_a_number_above_zero(world, value):
    before = bits(world.model)
    with pytest.raises(InvalidInputError, match="step_drift"):
        run(world, step_drift=value)
    assert same_bits(bits(world.model), before)
