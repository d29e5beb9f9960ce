"""Both estimates of the diagonal have the right mean: that of the dense matrix, in float64."""

from __future__ import annotations

import pytest
import torch

import fastunlearn as fu
from fastunlearn.errors import InvalidInputError
from fastunlearn.optim import diagonal_estimate

PART = ["*down_proj*", "*norm*"]


@pytest.mark.parametrize(
    ("kind", "operator"), [("hutchinson", fu.Hessian), ("gauss-newton-bartlett", fu.GGN)], ids=lambda x: str(x)
)
def test_the_mean_of_the_estimates_is_the_diagonal(kind, operator, tiny_gpt2, batch):
    model, part = tiny_gpt2(layers=1), ["*mlp.c_proj.weight", "*ln*"]  # small enough for a dense matrix
    matrix = operator(model, batch, params=part)
    truth = (matrix @ torch.eye(matrix.shape[0], dtype=torch.float64)).diagonal()
    draws = 60
    found = torch.stack([
        torch.cat([t.flatten() for t in diagonal_estimate(model, batch, kind=kind, params=part, seed=seed)])
        for seed in range(draws)
    ])  # fmt: skip
    error = found.std(0) / draws**0.5  # of the mean, each entry
    assert 0.8 < ((found.mean(0) - truth) / error).square().mean() < 1.25  # 1 for a normal error
    assert (found.mean(0).sum() - truth.sum()).abs() <= 4 * found.sum(1).std() / draws**0.5
    other = fu.GGN if operator is fu.Hessian else fu.Hessian  # a control: the other matrix is told apart
    wrong = (other(model, batch, params=part) @ torch.eye(matrix.shape[0], dtype=torch.float64)).diagonal()
    assert ((found.mean(0) - wrong) / error).square().mean() > 1.4


def test_dropout_is_off_meanwhile_and_back_afterwards(tiny_gpt2, batch):
    model = tiny_gpt2(torch.float32, resid_pdrop=0.5).train()
    once, again = (diagonal_estimate(model, batch, seed=3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True)) and model.training
    assert all(p.requires_grad for p in model.parameters())


def test_hutchinson_takes_a_loss_of_ones_own(tiny_llama, batch):
    model = tiny_llama(layers=1)

    def half(model, batch):
        return model(**batch).loss / 2

    whole, found = (
        diagonal_estimate(model, batch, kind="hutchinson", params=PART, loss=loss, seed=1) for loss in (None, half)
    )
    assert all(torch.allclose(2 * a, b, rtol=1e-9) for a, b in zip(found, whole, strict=True))
    with pytest.raises(InvalidInputError, match="loss"):
        diagonal_estimate(model, batch, loss=half)


def test_bad_arguments_are_named(tiny_llama, batch):
    with pytest.raises(InvalidInputError, match="kind"):
        diagonal_estimate(tiny_llama(), batch, kind="exact")
    with pytest.raises(InvalidInputError, match="batch"):
        diagonal_estimate(tiny_llama(), [batch])
