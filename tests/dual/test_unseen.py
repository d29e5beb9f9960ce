"""What code that no rule sees makes of a parameter is refused; it never becomes a constant in silence."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastunlearn.dual import DualPass, UnsupportedOperationError

from .oracle import accumulators, directions


@torch.jit.script
def scripted(x):
    return x.sin() * 2


class Model(nn.Module):
    """a is chosen, b is not."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
        self.b = nn.Parameter(torch.ones(4, dtype=torch.float64))


def run(loss, model=None):
    model = Model() if model is None else model
    v, out = directions({"a": model.a}, 1), accumulators({"a": model.a}, 1)
    DualPass(model, {"a": model.a}, lambda m, _: loss(m)).hessian({}, v, out)
    return out["a"][0], v["a"][0]


UNSEEN = {
    "scripted": lambda m: scripted(m.a).square().sum(),
    "scripted, in a list": lambda m: torch.cat([scripted(m.a), m.a]).square().sum(),
    "vmap": lambda m: torch.func.vmap(lambda r: r.sin().sum())(m.a).square().sum(),
    "vmap of a value": lambda m: torch.func.vmap(lambda r: r.sin().sum())(m.a * 2).square().sum(),
    "vmap of nothing": lambda m: torch.func.vmap(lambda r: m.a.sin().sum() + r.sum())(torch.ones(3, 4)).square().sum(),
    "vmap beside it": lambda m: torch.func.vmap(lambda r: (r * m.a[0]).sum())(torch.ones(3, 4)).square().sum(),
    "grad": lambda m: torch.func.grad(lambda w: w.pow(3).sum())(m.a).square().sum(),
}


@pytest.mark.parametrize("name", UNSEEN)
@pytest.mark.parametrize("frozen", [False, True])
def test_refused(name, frozen):
    model = Model()
    model.a.requires_grad_(not frozen)
    with pytest.raises(UnsupportedOperationError, match=r"cannot look inside|no rule can see"):
        run(lambda m: UNSEEN[name](m) + m.a.pow(3).sum(), model)
    assert model.a.requires_grad is not frozen


def test_made_before_the_pass():
    model = Model()
    twice = 2 * model.a
    with pytest.raises(UnsupportedOperationError, match="MulBackward0 made something of a parameter"):
        run(lambda m: (m.a * twice).sum(), model)
    found, v = run(lambda m: (m.a.square() * twice.detach()).sum(), model)
    torch.testing.assert_close(found, 2 * twice.detach() * v)


def test_constants_stay_constants():
    """Other parameters, tensors that need gradients, and what is meant as a constant."""
    given = torch.ones(4, dtype=torch.float64, requires_grad=True)

    def loss(m):
        with torch.no_grad():
            held = torch.func.vmap(torch.sin)(m.a)
        free = scripted(m.b) + torch.func.vmap(lambda r: r.sin())(m.b) + given.exp()
        return (m.a.pow(2) * free * held).sum() + (m.a.square() * scripted(m.a).detach()).sum()

    model = Model()
    found, v = run(loss, model)
    s = scripted(model.a.detach())
    free = (scripted(model.b) + model.b.sin() + given.exp()).detach()
    factor = model.a.detach().sin() * free + s
    torch.testing.assert_close(found, 2 * factor * v)


def test_differences_with_constants_at_the_ends():
    """torch.diff is affine then, not linear."""
    ends = torch.full((1, 4), 3.0, dtype=torch.float64)

    def loss(m):
        return torch.diff(m.a, dim=0, prepend=ends, append=ends).pow(3).sum()

    model = Model()
    found, v = run(loss, model)
    (g,) = torch.autograd.grad(loss(model), model.a, create_graph=True)
    torch.testing.assert_close(found, torch.autograd.grad((g * v).sum(), model.a)[0])


def test_a_scripted_part_of_a_model():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.part, self.head = torch.jit.script(nn.Linear(4, 4)), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.part(x))

    model, x = Net(), torch.randn(6, 4)
    parameters = dict(model.named_parameters())
    engine = DualPass(model, parameters, lambda m, b: F.cross_entropy(m(b), torch.zeros(6, dtype=torch.long)))
    before = copy.deepcopy({n: p.detach() for n, p in parameters.items()})
    with pytest.raises(UnsupportedOperationError, match="no rule can see"):
        engine.gradient(x, accumulators(parameters, 1))
    assert all(torch.equal(before[n], p) and p.grad is None for n, p in parameters.items())
