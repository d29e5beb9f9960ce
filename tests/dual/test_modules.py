"""Norms that are written out of pieces: one operation where they are it, with the weight that they have now."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import fastunlearn.dual.modules as modules
from fastunlearn.dual import DualPass

from . import oracle


class Exp(nn.Module):
    def forward(self, weight):
        return weight.exp()


class RMSNorm(nn.Module):
    """As Llama's; with ``offset`` 1 as Gemma's."""

    def __init__(self, offset=0.0, width=6):
        super().__init__()
        self.weight, self.eps, self.offset = nn.Parameter(torch.rand(width, dtype=torch.float64)), 1e-6, offset

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * (self.offset + self.weight)


class Net(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.first, self.norm = nn.Linear(6, 6).double(), norm

    def forward(self, x):
        return self.norm(self.first(x))


X = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def loss(model, batch):
    return model(batch["x"]).sin().sum()


@pytest.fixture
def uses(monkeypatch):
    seen, own = [], modules.dual_norm
    monkeypatch.setattr(modules, "dual_norm", lambda *args: seen.append(args[5]) or own(*args))
    return seen


def check(engine, model, batch):
    parameters = engine.parameters
    v, out = oracle.directions(parameters, 2), oracle.accumulators(parameters, 2)
    engine.hessian(batch, v, out)
    truth = oracle.hessian(model, parameters, batch, v, loss)[0]
    for name, expected in truth.items():
        torch.testing.assert_close(out[name], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("only", [None, "first"])
def test_a_weight_that_is_computed(only):
    """A parametrised weight is a function of its parameter, also where that is not chosen and changes in between."""
    model = Net(RMSNorm())
    parametrize.register_parametrization(model.norm, "weight", Exp())
    engine = DualPass(model, oracle.chosen(model, only), loss)
    check(engine, model, {"x": X})
    with torch.no_grad():
        model.norm.parametrizations.weight.original.add_(1.0)
    check(engine, model, {"x": X})


def test_a_weight_that_is_another_by_now(uses):
    model = Net(RMSNorm())
    engine = DualPass(model, oracle.chosen(model, "first"), loss)
    check(engine, model, {"x": X})
    model.norm.weight, model.norm.eps = nn.Parameter(torch.rand(6, dtype=torch.float64)), 0.5
    check(engine, model, {"x": X})
    parametrize.register_parametrization(model.norm, "weight", Exp())
    check(engine, model, {"x": X})
    assert uses == [0.0, 0.0]


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_a_first_input_that_tells_nothing(offset, uses):
    """Zeros are normalised to zeros whatever the weight is."""
    model = Net(RMSNorm(offset))
    model.first.bias.data.zero_()
    engine = DualPass(model, oracle.chosen(model), loss)
    for x in (torch.zeros_like(X), X, X):
        check(engine, model, {"x": x})
    assert uses == [offset, offset]


def test_large_weights_in_a_half_type(uses):
    """Beside a weight of 100 in bfloat16, 1 + weight differs from weight by less than a rounding of the largest."""
    model = Net(RMSNorm(1.0)).bfloat16()
    model.norm.weight.data[0] = 100.0
    parameters = oracle.chosen(model)
    DualPass(model, parameters, loss).hessian(
        {"x": X.bfloat16()}, oracle.directions(parameters, 1), oracle.accumulators(parameters, 1)
    )
    assert uses == [1.0]
