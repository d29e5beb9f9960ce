"""The sampled Fisher matrix: its expectation, its seed, its order of batches."""

from __future__ import annotations

import pytest
import torch

import fastunlearn as fu
from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.fisher import draw_labels
from tests.operators.conftest import VOCABULARY, error

EXACT = 1e-10


def vector(operator, k=None):
    shape = (operator.shape[0],) if k is None else (operator.shape[0], k)
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_reductions_are_multiples_of_each_other(engine, tiny, batches, dense):
    tokens, samples = 19, 6
    for kind, make in (("ggn", fu.GGN), ("hessian", fu.Hessian)):
        v = vector(make(tiny, batches))
        truth = dense(kind) @ v
        assert error(make(tiny, batches, reduction="sum") @ v, tokens * truth) < EXACT
        assert error(make(tiny, batches, reduction="samples") @ v, tokens / samples * truth) < EXACT
    v = vector(fu.Fisher(tiny, batches))
    truth = dense("fisher") @ v
    assert error(fu.Fisher(tiny, batches, reduction="sum") @ v, samples * truth) < EXACT
    assert error(fu.Fisher(tiny, batches, reduction="mean") @ v, samples / tokens * truth) < EXACT


def test_empirical_is_g_transposed_g(engine, tiny, batches):
    fisher = fu.Fisher(tiny, batches)
    v = vector(fisher)
    by_hand = fu.weighted_gradient(tiny, batches, fu.per_sample_dot(tiny, batches, v)) / 6
    assert error(fisher @ v, by_hand) < 1e-12


def test_sampled_equals_ggn_in_expectation(engine, tiny, batches):
    """The trace of V^T F V over many seeds: its mean is within three standard errors of that of V^T G V. The labels
    given are the least likely ones, so that an empirical Fisher would not pass."""
    for batch in batches:
        unlikely = tiny(batch["input_ids"]).logits[:, :-1].argmin(-1)
        batch["labels"][:, 1:] = torch.where(batch["labels"][:, 1:] == -100, -100, unlikely)
    g = fu.GGN(tiny, batches, reduction="samples")
    v = vector(g, 8)
    found = torch.tensor([(v * (fu.Fisher(tiny, batches, kind="sampled", seed=s) @ v)).sum() for s in range(40)])
    wanted, spread = float((v * (g @ v)).sum()), float(found.std()) / len(found) ** 0.5
    assert spread < 0.1 * wanted and abs(float(found.mean()) - wanted) < 3 * spread
    assert abs(float((v * (fu.Fisher(tiny, batches) @ v)).sum()) - wanted) > 5 * spread


def test_sampled_depends_on_the_seed_alone(engine, tiny, batches):
    fisher = fu.Fisher(tiny, batches, kind="sampled", seed=1)
    v = vector(fisher, 2)
    first = fisher @ v
    assert torch.equal(first, fisher @ v)
    assert error(fu.Fisher(tiny, batches, kind="sampled", seed=1, vectors_at_once=1) @ v, first) < 1e-12
    assert error(fu.Fisher(tiny, batches, kind="sampled", seed=2) @ v, first) > 1e-3


def test_drawn_labels_follow_the_models_probabilities(tiny, batches):
    batch = batches[0]
    drawn = torch.stack([draw_labels(tiny, batch, seed) for seed in range(400)])
    kept = batch["labels"] == -100
    kept[:, 0] = True
    assert (drawn[:, kept] == batch["labels"][kept]).all()
    p = tiny(batch["input_ids"]).logits[:, :-1].softmax(-1)
    counts = torch.nn.functional.one_hot(drawn[:, :, 1:].clamp_min(0), VOCABULARY).double().mean(0)
    assert (counts - p)[~kept[:, 1:]].abs().max() < 5 * (0.25 / 400) ** 0.5


def test_sampled_needs_a_fixed_order(engine, tiny, batches):
    fisher = fu.Fisher(tiny, batches, kind="sampled")
    v = vector(fisher)
    fisher @ v
    batches.reverse()
    with pytest.raises(InvalidInputError, match="another order"):
        fisher @ v
