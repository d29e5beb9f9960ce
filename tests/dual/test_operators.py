"""Operators of torch.library, custom ones and torch's own: known by what they do, not by their name."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.dual import DualPass, UnsupportedOperationError

from .oracle import accumulators, directions


@torch.library.custom_op("fastunlearn_tests::sine", mutates_args=())
def sine(x: torch.Tensor) -> torch.Tensor:
    return x.sin()


@torch.library.custom_op("fastunlearn_tests::add", mutates_args=())
def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x * y + 1


@torch.library.custom_op("fastunlearn_tests::fill_", mutates_args=["x"])
def fill_(x: torch.Tensor) -> None:
    x.fill_(1.0)


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


sine.register_autograd(lambda ctx, g: g * ctx.saved_tensors[0].cos(), setup_context=_keep)
add.register_autograd(lambda ctx, g: (g * ctx.saved_tensors[1], g * ctx.saved_tensors[0]), setup_context=_keep)


def written(w):
    y = torch.ops.aten.mul_(w * 1, 2.0)
    torch.ops.aten.add_.Tensor(y[0], w[1])
    return y.pow(3).sum()


LOSSES = {
    "custom": lambda w: sine(2 * w).square().sum() + w.pow(3).sum(),
    "a name of torch's own": lambda w: torch.ops.fastunlearn_tests.add(w, 2 * w).sin().sum(),
    "an overload": lambda w: torch.ops.fastunlearn_tests.add.default(w, w.sin()).sin().sum(),
    "torch's": lambda w: torch.ops.aten.add.Tensor(w, w, alpha=2).sin().sum() + torch.ops.aten.tanh(w).sum(),
    "in place": written,
    "detached": lambda w: (torch.ops.aten.detach(w) * w.sin()).sum(),
}


def product(loss):
    model = torch.nn.Module()
    model.w = torch.nn.Parameter(torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    parameters = {"w": model.w}
    v, out = directions(parameters, 2), accumulators(parameters, 2)
    DualPass(model, parameters, lambda m, _: loss(m.w)).hessian({}, v, out)
    (g,) = torch.autograd.grad(loss(model.w), model.w, create_graph=True)
    truth = [torch.autograd.grad((g * t).sum(), model.w, retain_graph=True)[0] for t in v["w"]]
    return out["w"], torch.stack(truth)


@pytest.mark.parametrize("name", LOSSES)
def test_followed(name):
    found, truth = product(LOSSES[name])
    torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-12)


def test_a_custom_operator_that_writes_is_refused():
    def loss(w):
        y = w * 1
        torch.ops.fastunlearn_tests.fill_(y)
        return y.pow(3).sum()

    with pytest.raises(UnsupportedOperationError, match="fill_"):
        product(loss)
