"""Code written for curvlinops: the same constructor, forms and numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from fastunlearn.errors import InvalidInputError
from fastunlearn.integrations.curvlinops import GGNLinearOperator, HessianLinearOperator

EXACT = 1e-10


def make_case(loss_func, classes=3):
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, classes)).double()
    x = torch.randn(7, 4, dtype=torch.float64)
    y = torch.randn(7, classes, dtype=torch.float64)
    if isinstance(loss_func, nn.CrossEntropyLoss):
        y = y.argmax(1)
    return model, list(model.parameters()), x, y, list(zip(x.split(3), y.split(3), strict=True))


def dense_hessian(model, loss_func, x, y):
    start = parameters_to_vector(model.parameters()).detach()

    def at(theta):
        shapes = {n: p.shape for n, p in model.named_parameters()}
        parts = theta.split([s.numel() for s in shapes.values()])
        values = {n: part.view(s) for (n, s), part in zip(shapes.items(), parts, strict=True)}
        return loss_func(torch.func.functional_call(model, values, (x,)), y)

    return torch.autograd.functional.hessian(at, start)


LOSSES = [nn.MSELoss(), nn.MSELoss(reduction="sum"), nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum")]


@pytest.mark.parametrize("loss_func", LOSSES, ids=repr)
def test_hessian(loss_func):
    model, params, x, y, data = make_case(loss_func)
    operator, truth = HessianLinearOperator(model, loss_func, params, data), dense_hessian(model, loss_func, x, y)
    v = torch.randn(len(truth), 3, dtype=torch.float64)
    assert ((operator @ v) - truth @ v).norm() < EXACT * (truth @ v).norm()
    parts = [part.reshape(*p.shape, 3) for part, p in zip(v.split([p.numel() for p in params]), params, strict=True)]
    listed = operator @ parts
    assert all(part.shape == (*p.shape, 3) for part, p in zip(listed, params, strict=True))
    assert torch.equal(torch.cat([part.reshape(-1, 3) for part in listed]), operator @ v)


@pytest.mark.parametrize("loss_func", [nn.MSELoss(), nn.CrossEntropyLoss(reduction="sum")], ids=repr)
@pytest.mark.parametrize("kind", ["Hessian", "GGN"])
def test_the_same_numbers_as_curvlinops(kind, loss_func):
    curvlinops = pytest.importorskip("curvlinops")
    model, params, _, _, data = make_case(loss_func)
    ours = {"Hessian": HessianLinearOperator, "GGN": GGNLinearOperator}[kind](model, loss_func, params, data)
    theirs = getattr(curvlinops, f"{kind}LinearOperator")(model, loss_func, params, data)
    v = torch.randn(ours.shape[1], dtype=torch.float64)
    assert ours.shape == theirs.shape and (ours.dtype, ours.device) == (theirs.dtype, theirs.device)
    assert (ours @ v - theirs @ v).norm() < EXACT * (theirs @ v).norm()
    assert abs(ours.to_scipy() @ v.numpy() - theirs.to_scipy() @ v.numpy()).max() < 1e-9
    for a, b in zip(ours.gradient_and_loss()[0], theirs.gradient_and_loss()[0], strict=True):
        assert torch.allclose(a, b, rtol=1e-10)
    assert torch.allclose(ours.gradient_and_loss()[1], theirs.gradient_and_loss()[1], rtol=1e-10)
    torch.manual_seed(1)
    trace = curvlinops.hutchinson_trace(ours, num_matvecs=4)
    torch.manual_seed(1)
    assert torch.allclose(trace, curvlinops.hutchinson_trace(theirs, num_matvecs=4), rtol=1e-9)


def test_num_data_and_custom_inputs():
    loss_func = nn.MSELoss()
    model, params, _, _, data = make_case(loss_func)
    operator = HessianLinearOperator(model, loss_func, params, data)
    v = torch.randn(operator.shape[1], dtype=torch.float64)
    other = HessianLinearOperator(model, loss_func, params, data, num_data=14, check_deterministic=False)
    assert torch.allclose(other @ v, operator @ v / 2)

    class Unpack(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, batch):
            return self.inner(batch["x"])

    wrapped = [({"x": a}, b) for a, b in data]
    custom = HessianLinearOperator(Unpack(), loss_func, params, wrapped, batch_size_fn=lambda b: len(b["x"]))
    assert torch.allclose(custom @ v, operator @ v)
    with pytest.raises(InvalidInputError, match="batch_size_fn"):
        HessianLinearOperator(Unpack(), loss_func, params, wrapped)


def test_differing_passes_are_found():
    model, params, _, _, data = make_case(nn.MSELoss())

    class Noisy:
        def __iter__(self):
            return iter([(x + torch.randn_like(x), y) for x, y in data])

    with pytest.raises(InvalidInputError, match="different gradients"):
        HessianLinearOperator(model, nn.MSELoss(), params, Noisy())
    HessianLinearOperator(model, nn.MSELoss(), params, Noisy(), check_deterministic=False)


def test_refusals():
    model, params, _, _, data = make_case(nn.MSELoss())
    with pytest.raises(InvalidInputError, match="reduction is 'none'"):
        HessianLinearOperator(model, nn.MSELoss(reduction="none"), params, data)
    with pytest.raises(InvalidInputError, match="block_sizes"):
        HessianLinearOperator(model, nn.MSELoss(), params, data, block_sizes=[2, 2])
    with pytest.raises(InvalidInputError, match="only once"):
        HessianLinearOperator(model, nn.MSELoss(), params, iter(data))
    with pytest.raises(InvalidInputError, match="must be a pair"):
        HessianLinearOperator(model, nn.MSELoss(), params, [data[0][0]])
