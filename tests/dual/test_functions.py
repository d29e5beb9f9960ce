"""torch.autograd.Function in a model: followed, or refused by name; never dropped in silence."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from fastunlearn.dual import DualPass
from fastunlearn.dual.values import UnsupportedOperationError


class Cube(Function):
    """x^3, with a backward that autograd can differentiate."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.save_for_backward(x)
        ctx.factor = factor
        return factor * x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * ctx.factor * x**2 * g, None


class NewStyle(Function):
    """The same with setup_context."""

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        return 3 * ctx.saved_tensors[0] ** 2 * g


class Kept(Function):
    """The derivative is computed in the forward: a constant to autograd, so that f'' would come out as 0."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(3 * x**2)
        return x**3

    @staticmethod
    def backward(ctx, g):
        return ctx.saved_tensors[0] * g


class KeptAsAttribute(Kept):
    """The same, kept as an attribute."""

    @staticmethod
    def forward(ctx, x):
        ctx.derivative = 3 * x**2
        return x**3

    @staticmethod
    def backward(ctx, g):
        return ctx.derivative * g


class Once(Cube):
    """A backward that says that it has no derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return 3 * ctx.saved_tensors[0] ** 2 * g


class Opaque(Once):
    """A backward in code that autograd does not see."""

    @staticmethod
    def backward(ctx, g):
        with torch.no_grad():
            return 3 * ctx.saved_tensors[0] ** 2 * g


BOUND = Cube.apply  # models keep such copies


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([0.3, -0.7], dtype=torch.float64))


def product(function):
    model, v = Model(), torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    engine = DualPass(model, {"w": model.w}, lambda m, _: (function(torch.sin(m.w)) ** 2).sum())
    out = {"w": torch.zeros(1, 2, dtype=torch.float64)}
    engine.hessian({}, {"w": v}, out)
    truth = torch.autograd.functional.hessian(lambda w: (torch.sin(w) ** 6).sum(), model.w.detach()) @ v[0]
    return out["w"][0], truth


@pytest.mark.parametrize("function", [lambda x: BOUND(x, 1.0), lambda x: Cube.apply(x, 1.0), NewStyle.apply])
def test_followed(function):
    found, truth = product(function)
    assert torch.allclose(found, truth, rtol=1e-12)


@pytest.mark.parametrize("function", [Kept, KeptAsAttribute, Once, Opaque])
def test_refused(function):
    with pytest.raises(UnsupportedOperationError, match=function.__name__):
        product(function.apply)


class Dirty(Function):
    """It writes into its argument."""

    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx, g):
        return 2 * g


def test_one_that_writes_is_refused():
    with pytest.raises(UnsupportedOperationError, match=r"Dirty .* writes into its argument"):
        product(lambda x: Dirty.apply(x * 1))


def test_a_parameter_given_to_it_directly():
    model = Model()
    engine = DualPass(model, {"w": model.w}, lambda m, _: BOUND(m.w, 2.0).sum())
    out = {"w": torch.zeros(1, 2, dtype=torch.float64)}
    engine.hessian({}, {"w": torch.ones(1, 2, dtype=torch.float64)}, out)
    assert torch.allclose(out["w"][0], 12 * model.w.detach())


def test_as_before_afterwards():
    product(NewStyle.apply)
    x = torch.ones(1, requires_grad=True)
    BOUND(x, 1.0).backward()
    assert x.grad == 3 and "apply" not in vars(torch.autograd.function._SingleLevelFunction)
