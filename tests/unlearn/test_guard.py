"""The guard on a stand-in for the monitor whose drift and forgetting are known functions of one weight."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from fastunlearn.errors import InvalidInputError
from fastunlearn.unlearn.guard import guarded_move
from fastunlearn.unlearn.snapshot import Snapshot, restored_on_failure

START = 0.7


class Known:
    """``drift(x)`` and ``forgotten(x)`` at the distance x that the weight has moved."""

    def __init__(self, drift=lambda x: x, forgotten=lambda x: False):
        self.weight = torch.nn.Parameter(torch.full((1,), START, dtype=torch.float64))
        self.request = SimpleNamespace(parameters={"w": self.weight})
        self._drift, self._forgotten = drift, forgotten

    @property
    def moved(self) -> float:
        return self.weight.item() - START

    def drift(self):
        return self._drift(self.moved)

    def forgotten(self):
        return self._forgotten(self.moved)


def go(monitor, budget, length=1.0, **options):
    return guarded_move(monitor, {"w": torch.full((1,), length, dtype=torch.float64)}, budget, **options)


def test_the_whole_step_within_the_budget():
    monitor = Known()
    move = go(monitor, 1.5)
    assert (move.scale, monitor.moved) == (1.0, pytest.approx(1)) and move.drift == monitor.drift()


@pytest.mark.parametrize(("budget", "scale"), [(0.6, 0.5), (0.3, 0.25), (0.04, 0.03125)])
def test_halved_until_it_fits(budget, scale):
    monitor = Known()
    assert go(monitor, budget).scale == scale
    assert monitor.moved == pytest.approx(scale)


def test_nothing_fits_and_the_weight_is_back_to_the_bit():
    monitor = Known()
    move = go(monitor, 0.01)
    assert (move.scale, move.drift) == (0.0, 0.0) and monitor.weight.item() == START


def overflowing(x):
    if x > 0.3:
        raise InvalidInputError("model: its logits hold NaN or infinity; it cannot be measured")
    return 0.01


def test_a_step_to_where_logits_are_no_numbers_is_halved_too():
    """Float16's end at 65504, or a step without a norm limit: the guard is there for that."""
    monitor = Known(overflowing)
    move = go(monitor, 0.5)
    assert (move.scale, move.drift) == (0.25, 0.01) and monitor.moved == pytest.approx(0.25)
    monitor = Known(overflowing)
    assert go(monitor, 0.5, length=1e30).scale == 0 and monitor.weight.item() == START
    with pytest.raises(InvalidInputError, match="logits"):  # without a budget nothing says that a shorter one is meant
        go(Known(overflowing), None)


def test_a_drift_of_nan_fits_no_budget():
    monitor = Known(drift=lambda x: math.nan)
    assert go(monitor, 1.0).scale == 0 and monitor.weight.item() == START


@pytest.mark.parametrize("drift", [lambda x: 1e9, lambda x: None])
def test_without_budget_or_without_probe_the_step_is_taken(drift):
    assert go(Known(drift), None).scale == 1
    assert go(Known(lambda x: None), 0.1).scale == 1


def test_shortened_by_bisection_to_about_the_least_that_forgets():
    monitor = Known(forgotten=lambda x: x >= 0.3)
    move = go(monitor, 2.0)
    assert move.scale == 0.3125  # the least multiple of 1/16 that is at least 0.3
    assert monitor.moved == pytest.approx(0.3125) and monitor.forgotten() and move.drift == monitor.drift()


def test_shortened_after_halving():
    monitor = Known(forgotten=lambda x: x >= 0.3)
    assert go(monitor, 0.6).scale == 0.3125  # from 1/2, in steps of 1/32


def test_not_shortened_when_told_not_to():
    assert go(Known(forgotten=lambda x: x >= 0.3), 2.0, shorten=False).scale == 1


def test_the_budget_holds_after_shortening_even_where_drift_is_not_monotone():
    monitor = Known(drift=lambda x: 9.0 if 0.2 < x < 0.5 else 0.1, forgotten=lambda x: x >= 0.3)
    move = go(monitor, 1.0)
    assert move.drift <= 1 and monitor.drift() <= 1 and move.scale == 1 and monitor.forgotten()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_step_that_is_not_finite_is_refused(bad):
    monitor = Known()
    with pytest.raises(InvalidInputError, match="raise damping"):
        go(monitor, None, bad)
    assert monitor.weight.item() == START


def test_snapshot_moves_from_where_it_was_taken():
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    snapshot = Snapshot({"w": weight})
    for scale in (1.0, 0.5):
        snapshot.move({"w": torch.tensor([2.0, -4.0])}, scale)
    assert weight.tolist() == [2.0, 0.0]
    snapshot.restore()
    assert weight.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_restored_on_any_exception_with_modes_flags_and_gradients(error):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout()).train()
    model[1].eval()  # a mode of its own
    model[0].bias.requires_grad_(False)
    model[0].weight.grad = torch.ones(2, 2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(error), restored_on_failure(model, dict(model.named_parameters())):
        model.eval()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(1)
                p.requires_grad_(True)
        model[0].weight.grad = None
        raise error
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert (model.training, model[0].training, model[1].training) == (True, True, False)
    assert model[0].weight.requires_grad and not model[0].bias.requires_grad
    assert torch.equal(model[0].weight.grad, torch.ones(2, 2))
