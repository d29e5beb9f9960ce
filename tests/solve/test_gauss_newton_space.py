"""Solves with the exact Gauss-Newton matrix, against dense matrices of tiny models."""

from __future__ import annotations

import pytest
import torch

import fastunlearn as fu
from fastunlearn.errors import InvalidInputError, NotPositiveDefiniteError
from fastunlearn.operators.targets import make_batch
from fastunlearn.solve import KFAC, GaussNewtonFisher, KroneckerSampleFisher
from fastunlearn.solve.gauss_newton_space import product_gradients
from tests.operators.sampling import make_samples
from tests.solve.test_kronecker_space import LENGTHS, flat, make_gradients, model, vector  # noqa: F401
from tests.solve.test_low_rank_fisher import error

DAMPING = 1e-2


@pytest.fixture
def chosen(model):  # noqa: F811
    return {name: p for name, p in model.named_parameters() if "mlp" in name}


@pytest.fixture
def gradients(model, chosen):  # noqa: F811
    return make_gradients(model, parameters=chosen)


@pytest.fixture
def matrix(model, chosen):  # noqa: F811
    batches = [make_batch(model, make_samples(LENGTHS)[i : i + 3], 0) for i in (0, 3)]
    return fu.GGN(model, batches, params=list(chosen.values()), reduction="sum")


def make_fisher(own, matrix, products, weight=5.0, damping=DAMPING, **options):
    kronecker = KroneckerSampleFisher(KFAC(own, 1e-3, corrected=True), own, weight)
    return GaussNewtonFisher(kronecker, matrix, damping, products, **options)


def dense(own, matrix, weight, damping=DAMPING) -> torch.Tensor:
    identity, rows, m = torch.eye(matrix.shape[0], dtype=torch.float64), own.dense(), len(own)
    columns = torch.cat([matrix @ identity[:, i : i + 64] for i in range(0, len(identity), 64)], 1)
    return columns / m + weight / m * rows.T @ rows + damping * identity


@pytest.mark.parametrize("weight", [0.0, 5.0, 1e3])
def test_with_many_products_it_is_the_dense_solve(gradients, matrix, weight):
    v, names = vector(gradients), list(gradients.parameters)
    found = make_fisher(gradients, matrix, 500, weight, tolerance=1e-8).solve(v)
    wanted = torch.linalg.solve(dense(gradients, matrix, weight), flat(v))
    assert list(found) == names and all(found[name].shape == v[name].shape for name in names)
    assert error(flat(found), wanted) <= 1e-5


def test_every_further_product_brings_it_nearer_from_the_kronecker_answer_on(gradients, matrix):
    """In the energy ``x^T F x / 2 - v^T x``, which conjugate gradients lower; the first takes the best length."""
    v, whole = vector(gradients), dense(gradients, matrix, 5.0)
    b = flat(v)

    def energy(x):
        return (x @ whole @ x / 2 - b @ x).item()

    found = [flat(make_fisher(gradients, matrix, count).solve(v)) for count in (1, 2, 4, 8)]
    first = flat(KroneckerSampleFisher(KFAC(gradients, 1e-3, corrected=True), gradients, 5.0).solve(v))
    assert error(found[0], first * (b @ first) / (first @ whole @ first)) <= 1e-6
    values = [energy(x) for x in found]
    assert values == sorted(values, reverse=True) and values[-1] < values[0] < 0
    assert values[-1] >= energy(torch.linalg.solve(whole, b))


def test_it_tells_what_it_spends_and_leaves_mode_and_flags(model, gradients, matrix):  # noqa: F811
    spent = []
    model.train()
    flags = [p.requires_grad for p in model.parameters()]
    make_fisher(gradients, matrix, 3, spend=spent.append).solve(vector(gradients))
    assert spent == [product_gradients(len(LENGTHS), 3)] == [16]
    assert model.training and [p.requires_grad for p in model.parameters()] == flags


def test_bad_input(model, gradients, matrix):  # noqa: F811
    for products in (0, True, 2.0):
        with pytest.raises(InvalidInputError, match="products="):
            make_fisher(gradients, matrix, products)
    with pytest.raises(InvalidInputError, match="damping"):
        make_fisher(gradients, matrix, 2, damping=-1.0)
    few = fu.GGN(model, make_batch(model, make_samples(LENGTHS), 0), params=[next(model.parameters())])
    with pytest.raises(InvalidInputError, match="other parameters"):
        make_fisher(gradients, few, 2)


def test_a_product_that_is_not_finite_is_refused(model, gradients, matrix):  # noqa: F811
    fisher = make_fisher(gradients, matrix, 2)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(NotPositiveDefiniteError, match=r"products_damping=0.01.*NaN"):
        fisher.solve(vector(gradients))
