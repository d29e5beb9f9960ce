"""Spectra and traces against the eigenvalues of the dense matrix, in float64."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
import torch

import fastunlearn as fu
from fastunlearn.errors import InvalidInputError


class Diagonal:
    """A diagonal matrix of known eigenvalues."""

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, (len(values), len(values)), values.dtype
        self.columns = 0

    def __matmul__(self, v):
        self.columns += v.shape[1]
        return self.values[:, None] * v


def test_the_ends_lie_within_their_errors(hessian, dense):
    truth = torch.linalg.eigvalsh(dense)
    for steps in (8, 40):
        found = fu.spectrum(hessian, probes=2, steps=steps)
        assert (truth - found.largest.value).abs().min() <= found.largest.error + 1e-12
        assert (truth - found.smallest.value).abs().min() <= found.smallest.error + 1e-12
    assert found.largest.value == pytest.approx(truth[-1].item(), rel=1e-8)
    assert found.smallest.value == pytest.approx(truth[0].item(), rel=1e-6) and found.products == 80


def test_a_quadrature_is_exact_for_low_degrees():
    """Of the moments of its own starting vector: 2 s - 1 for s steps; here the vectors are all alike in size."""
    a = Diagonal(torch.linspace(-1, 3, 50, dtype=torch.float64))
    found = fu.spectrum(a, probes=200, steps=4)
    for p in range(8):
        moment = found.mean(lambda x, p=p: x**p)
        assert abs(moment.value - a.values.pow(p).sum().item()) <= 4 * moment.error + 1e-9


def test_density_and_shares(hessian, dense):
    truth = torch.linalg.eigvalsh(dense)
    found = fu.spectrum(hessian, probes=20, steps=40)
    width = 0.05 * (truth[-1] - truth[0]).item()
    x = torch.linspace(truth[0].item() - 5 * width, truth[-1].item() + 5 * width, 800, dtype=torch.float64)
    y = found.density(x, width)
    z = (x[:, None] - truth) / width
    exact = torch.exp(-z.square() / 2).mean(1) / (width * (2 * torch.pi) ** 0.5)
    assert torch.trapezoid(y, x).item() == pytest.approx(1.0, abs=1e-6)
    assert torch.trapezoid((y - exact).abs(), x).item() < 0.05
    cut = truth[-20].item() - 1e-9
    assert found.share_above(cut) == pytest.approx(20 / len(truth), rel=0.3)
    log_determinant = fu.spectrum(hessian.damped(2 * abs(truth[0].item())), probes=20, steps=40).mean(torch.log)
    exact = (truth + 2 * abs(truth[0])).log().sum().item()
    assert abs(log_determinant.value - exact) <= 4 * log_determinant.error


def test_without_reorthogonalisation_the_density_is_the_same():
    a = Diagonal(torch.cat([torch.linspace(0, 1, 300), torch.tensor([50.0])]).to(torch.float64))
    kept, loose = (fu.spectrum(a, steps=80, probes=2, reorthogonalise=flag) for flag in (True, False))
    x = torch.linspace(-1, 51, 400, dtype=torch.float64)
    assert torch.allclose(kept.density(x, 0.5), loose.density(x, 0.5), atol=1e-3)
    assert loose.largest.value == pytest.approx(50.0, rel=1e-9)


def test_an_exhausted_space_is_no_trouble():
    a = Diagonal(torch.tensor([2.0, 2.0, 2.0, 5.0, 5.0], dtype=torch.float64))
    found = fu.spectrum(a, steps=5, probes=40)
    assert found.largest.value == pytest.approx(5.0) and found.smallest.value == pytest.approx(2.0)
    assert abs(found.share_above(3.0) - 0.4) < 0.15


def test_a_model_is_read_as_its_hessian(tiny_llama, batch):
    model, part = tiny_llama(layers=1), ["*down_proj*"]
    a = fu.spectrum(model, batch, params=part, steps=5, probes=2)
    b = fu.spectrum(fu.Hessian(model, batch, params=part), steps=5, probes=2)
    assert torch.equal(a.nodes, b.nodes) and a.size == b.size
    ElementTree.fromstring(a.svg(points=50))


@pytest.mark.parametrize("products", [6, 48, 90])
def test_the_trace_lies_within_its_error(products, hessian, dense):
    truth, spread = dense.trace().item(), []
    for seed in range(20):
        found = fu.trace(hessian, products=products, seed=seed)
        assert found.products == products
        spread.append((found.value - truth) / found.error)
    spread = torch.tensor(spread)
    assert spread.median().abs() < 1.0 and (spread.abs() < 3).double().mean() > (0.8 if products > 6 else 0.5)


def test_a_matrix_of_low_rank_has_its_trace_at_once():
    values = torch.zeros(200, dtype=torch.float64)
    values[:8] = torch.arange(1.0, 9.0)
    found = fu.trace(Diagonal(values), products=30)
    assert found.value == pytest.approx(36.0, rel=1e-10) and found.error < 1e-9


def test_hutch_plus_plus_beats_plain_samples_on_a_steep_spectrum():
    a = Diagonal(torch.arange(1, 301, dtype=torch.float64).pow(-2))
    plain = a.values.pow(2).sum().mul(2).sqrt().item() / 48**0.5  # standard error of 48 Gaussian samples
    errors = [abs(fu.trace(a, products=48, seed=s).value - a.values.sum().item()) for s in range(10)]
    assert torch.tensor(errors).mean() < 0.1 * plain


def test_a_small_matrix_is_traced_exactly():
    a = Diagonal(torch.tensor([1.0, -2.0, 3.5], dtype=torch.float64))
    found = fu.trace(a, products=48)
    assert found.value == pytest.approx(2.5) and found.error == 0.0 and found.products == a.columns == 6


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda h: fu.spectrum(h, probes=0), "probes"),
        (lambda h: fu.spectrum(h, steps=1.5), "steps"),
        (lambda h: fu.spectrum(h.walk.model), "batches"),
        (lambda h: fu.spectrum(h, params=["*"]), "params"),
        (lambda h: fu.trace(h, products=3), "products"),
        (lambda h: fu.spectrum(h * float("nan")), "NaN"),
    ],
)
def test_bad_arguments_are_named(call, name, hessian):
    with pytest.raises(InvalidInputError, match=name):
        call(hessian)
