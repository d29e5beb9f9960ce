"""Sums, multiples and products of operators, and the view for SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator as ScipyOperator
from scipy.sparse.linalg import cg, eigsh

import fastunlearn as fu
from fastunlearn.errors import InvalidInputError
from tests.operators.conftest import error

EXACT = 1e-10


@pytest.fixture
def hessian(tiny, batches, engine):
    return fu.Hessian(tiny, batches)


def test_algebra(hessian, tiny, batches, dense):
    h, g = dense("hessian"), dense("ggn")
    v = torch.randn(len(h), 2, dtype=torch.float64)
    eye, ggn = fu.Identity(hessian), fu.GGN(tiny, batches)
    for operator, truth in (
        (hessian + 0.5 * eye, h @ v + 0.5 * v),
        (hessian.damped(0.5), h @ v + 0.5 * v),
        (-hessian / 2 - ggn * 3, -h @ v / 2 - 3 * g @ v),
        (hessian @ ggn, h @ (g @ v)),
        ((hessian @ ggn).T, g @ (h @ v)),
        ((2 * (hessian @ ggn) + eye).T, 2 * g @ (h @ v) + v),
    ):
        assert error(operator @ v, truth) < EXACT


def test_operands_must_act_on_the_same_parameters(hessian, tiny, batches):
    with pytest.raises(InvalidInputError, match="different parameters"):
        hessian + fu.GGN(tiny, batches, params=["*norm*"])


def test_eigsh_finds_the_dense_eigenvalues(hessian, dense):
    view = hessian.to_scipy()
    assert isinstance(view, ScipyOperator) and view.dtype == np.float64 and view.shape == tuple(hessian.shape)
    truth = torch.linalg.eigvalsh(dense("hessian"))
    low, high = eigsh(view, k=2, which="BE", return_eigenvectors=False, v0=np.ones(view.shape[0]))
    assert abs(low - truth[0]) < 1e-8 * truth[-1] and abs(high - truth[-1]) < 1e-8 * truth[-1]


def test_cg_solves_the_damped_system(tiny, batches, engine, dense):
    ggn, damping = fu.GGN(tiny, batches), 0.5
    b = np.random.default_rng(0).standard_normal(ggn.shape[0])
    x, status = cg(ggn.damped(damping).to_scipy(), b, rtol=1e-9, maxiter=400)
    truth = torch.linalg.solve(dense("ggn") + damping * torch.eye(len(b), dtype=torch.float64), torch.from_numpy(b))
    assert status == 0 and error(torch.from_numpy(x), truth) < 1e-7


def test_scipy_transpose_and_matrices(hessian, tiny, batches, dense):
    view = (hessian @ fu.GGN(tiny, batches)).to_scipy()
    x = np.random.default_rng(0).standard_normal((view.shape[0], 3))
    h, g = dense("hessian").numpy(), dense("ggn").numpy()
    np.testing.assert_allclose(view @ x, h @ (g @ x), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(view.T @ x[:, 0], g @ (h @ x[:, 0]), rtol=1e-9, atol=1e-9)
