"""The budget is the same for every method, and so is the number of trials."""

from __future__ import annotations

import pytest

from fastunlearn.evaluation.trials import budget_of, trial_settings
from fastunlearn.solve.gauss_newton_space import product_gradients
from fastunlearn.unlearn import METHODS
from fastunlearn.unlearn.rehearsal import rehearsing_gradients
from fastunlearn.unlearn.settings import make_settings

FORGET, RETAIN = 10, 40


def settings(name, trials=3, seed=0):
    budget = budget_of(FORGET, RETAIN)
    return trial_settings(name, trials=trials, budget=budget, forget=FORGET, retain=RETAIN, seed=seed)


def test_the_budget_is_forty_steps_of_fisher_removal():
    assert budget_of(FORGET, RETAIN) == 2000
    assert settings("fisher-removal")[0] == {"steps": 40}
    assert settings("fisher-removal-retain-free")[0] == {"steps": 200}  # it takes gradients of the forget records alone


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_as_many_trials(name):
    found, row = settings(name), METHODS[name]
    assert len(found) == 3 and found == settings(name)
    for one in found:
        plain = {key: value for key, value in one.items() if not (row.uses_kept and key == "damping")}
        make_settings(row.settings, name, dict(row.preset) | plain)


@pytest.mark.parametrize("seed", range(4))
def test_what_a_step_costs_besides_is_within_the_budget(seed):
    """Products as drawn, or as preset; rehearsals."""
    found = settings("gauss-newton-removal", trials=5, seed=seed)
    assert {one.get("products", 4) for one in found} > {4}
    for one in found:
        each = FORGET + RETAIN + product_gradients(RETAIN, one.get("products", 4))
        assert 2000 - each < one["steps"] * each <= 2000
    left = 2000 - rehearsing_gradients(40, FORGET, RETAIN)
    assert settings("kronecker-removal-rehearsed", seed=seed)[0] == {"steps": left // (FORGET + RETAIN)}


def test_methods_with_retained_data_spend_the_budget():
    assert settings("npo-retain")[0] == {"check_every": 9, "stop": "budget"}
    assert settings("npo")[0] == {"check_every": 25}
