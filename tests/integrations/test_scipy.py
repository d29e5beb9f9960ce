"""SciPy's iterative methods on our operators."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fastunlearn as fu

linalg = pytest.importorskip("scipy.sparse.linalg")


@pytest.fixture
def case(tiny_llama):
    ids = torch.randint(3, 37, (2, 7))
    return tiny_llama(layers=1), {"input_ids": ids, "labels": ids}, ["*[qkv]_proj.weight"]


def hessian_of(case):
    model, batch, params = case
    return fu.Hessian(model, batch, params=params)


def test_the_ends_of_the_spectrum(case):
    hessian = hessian_of(case)
    dense = (hessian @ torch.eye(hessian.shape[0], dtype=torch.float64)).numpy()
    values = np.linalg.eigvalsh((dense + dense.T) / 2)
    found, vectors = linalg.eigsh(hessian.to_scipy(), k=4, which="BE")
    assert np.allclose(np.sort(found), np.r_[values[:2], values[-2:]], rtol=1e-6)
    assert values[0] < 0 < values[-1]  # indefinite: both ends are there
    assert np.linalg.norm(dense @ vectors - vectors * found) < 1e-6 * abs(values).max()


def test_conjugate_gradients_on_a_damped_gauss_newton(case):
    model, batch, params = case
    damped = fu.GGN(model, batch, params=params).damped(0.1)
    right = np.random.default_rng(0).standard_normal(damped.shape[0])
    found, status = linalg.cg(damped.to_scipy(), right, rtol=1e-10)
    assert status == 0
    assert np.linalg.norm((damped @ torch.from_numpy(found)).numpy() - right) < 1e-8 * np.linalg.norm(right)
