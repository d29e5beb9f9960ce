"""Choosing settings by trial: what is chosen, and where the model is left."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fastunlearn.demo.grids import GRIDS
from fastunlearn.errors import InvalidInputError
from fastunlearn.unlearn import METHODS
from fastunlearn.unlearn.settings import make_settings
from fastunlearn.unlearn.tuning import Trial, tune
from tests.unlearn.unchanged import bits, same_bits


def run(world, grid, method="gradient-ascent", **options):
    return tune(world.model, world.tokenizer, method=method, grid=grid, **{**world.data, "gradients": 600, **options})


def test_the_model_is_that_of_the_trial_with_the_least_drift(world):
    seen = []
    grid = [{"learning_rate": rate} for rate in (1e-2, 1e-3, 1e-5)]
    best, trials = run(world, grid, on_trial=lambda trial: seen.append((trial, bits(world.model))))
    assert [trial.settings for trial in trials] == grid and [trial for trial, _ in seen] == trials
    reached = [trial.result.stopped.startswith("reached") for trial in trials]
    assert reached == [True, True, False]  # the last is too slow for the budget, and drifts least
    assert reached == [trial.result.enough for trial in trials]
    assert trials[2].result.steps[-1]["kl_probe"] < trials[1].result.steps[-1]["kl_probe"]
    drift = [trial.result.steps[-1]["kl_probe"] for trial in trials[:2]]
    assert best is trials[drift.index(min(drift))]
    assert same_bits(bits(world.model), next(weights for trial, weights in seen if trial is best))


def test_every_trial_starts_from_the_original(world):
    _, trials = run(world, [{"learning_rate": 1e-3}] * 2)
    assert trials[0].result.steps == trials[1].result.steps


def test_without_forgetting_the_one_that_forgets_most_is_taken(world):
    best, _ = run(world, [{"learning_rate": 1e-6}, {"learning_rate": 1e-3}], gradients=50)
    assert best.settings == {"learning_rate": 1e-3} and not best.result.stopped.startswith("reached")


def test_a_wrong_setting_is_an_error_and_leaves_the_model(world):
    before = bits(world.model)
    with pytest.raises(InvalidInputError, match="learning_rate"):
        run(world, [{"learning_rate": 1e-3}, {"learning_rate": -1.0}])
    assert same_bits(bits(world.model), before)
    with pytest.raises(InvalidInputError, match="grid is empty"):
        run(world, [])


def test_diverged_trials_are_passed_over(world):
    rates = [{"learning_rate": 1e30}, {"learning_rate": 1e-3}]
    best, trials = run(world, rates)
    assert trials[0].result is None and "lower learning_rate" in trials[0].error and best is trials[1]
    before = {name: p.clone() for name, p in world.model.named_parameters()}
    with pytest.raises(InvalidInputError, match="every trial of gradient-ascent failed"):
        run(world, rates[:1], target_loss=99.0)
    assert all(torch.equal(p, before[name]) for name, p in world.model.named_parameters())


def test_a_fisher_that_is_not_positive_definite_is_a_failed_trial(world, monkeypatch):
    """It depends on the damping, so that another trial may do."""
    from fastunlearn.errors import NotPositiveDefiniteError
    from fastunlearn.unlearn import tuning

    real = tuning.unlearn

    def fails(model, tokenizer, **options):
        if options["learning_rate"] == 1e-2:
            raise NotPositiveDefiniteError("too little damping")
        return real(model, tokenizer, **options)

    monkeypatch.setattr(tuning, "unlearn", fails)
    best, trials = run(world, [{"learning_rate": 1e-2}, {"learning_rate": 1e-3}])
    assert best is trials[1] and trials[0].result is None and trials[0].error == "too little damping"


def test_grids_hold_settings_that_the_methods_have():
    assert all(METHODS[name].first_order for name in GRIDS)
    for name, grid in GRIDS.items():
        for settings in grid:
            make_settings(METHODS[name].settings, name, dict(METHODS[name].preset) | settings)


def taken(enough: bool, accuracy: float, drift: float, words: str):
    step = {"forget_accuracy": accuracy, "kl_probe": drift}
    return Trial({}, SimpleNamespace(steps=[step], enough=enough, stopped=words))


def test_the_rank_is_by_the_numbers_and_not_by_the_words():
    mild = taken(True, 0.2, 0.1, "the one step is taken")
    harsh = taken(True, 0.1, 0.3, "all 4 steps are taken; after 5 rehearsals no pull is left")
    back = taken(False, 0.25, 0.05, "reached the target of forget accuracy 0.200; curvature-shaped noise added")
    little = taken(False, 0.9, 0.01, "the one step is taken")
    failed = Trial({}, None, "too little damping")
    assert sorted([failed, little, back, harsh, mild], key=Trial.rank) == [mild, harsh, back, little, failed]


def test_of_single_steps_that_forget_enough_the_one_with_the_least_drift_is_taken(world):
    grid = [{"damping": damping, "kl_budget": None} for damping in (1e-2, 3e-4, 1e-4)]
    best, trials = tune(
        world.model, world.tokenizer, method="newton", grid=grid, target_accuracy=0.8, target_loss=0.5, **world.data
    )
    last = [trial.result.steps[-1] for trial in trials]
    enough = [one["forget_accuracy"] <= 0.8 and one["forget_loss"] >= 0.5 for one in last]
    assert sum(enough) > 1 and enough == [trial.result.enough for trial in trials]
    drift = [one["kl_probe"] for one, flag in zip(last, enough, strict=True) if flag]
    assert best.result.enough and best.result.steps[-1]["kl_probe"] == min(drift) < max(drift)
    assert best.result.steps[-1]["forget_accuracy"] > min(one["forget_accuracy"] for one in last)


def test_of_equals_the_weights_are_those_of_the_trial_that_is_returned(world):
    """Without retained and held-out records there is no drift to tell trials apart by."""
    world.data = {"forget": world.data["forget"]}
    seen = []
    grid = [{"learning_rate": rate} for rate in (1e-2, 1e-3)]
    best, trials = run(world, grid, on_trial=lambda trial: seen.append(bits(world.model)))
    assert trials[0].rank() == trials[1].rank() and best is trials[0] and not same_bits(*seen)
    assert same_bits(bits(world.model), seen[0])
