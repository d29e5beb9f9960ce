"""Writes in place reach every object that shares the memory, and no other; against double backward."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastunlearn.dual import DualPass

from .oracle import accumulators, directions

IDS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])


class Net(nn.Module):
    """A bigram model: embedding and output layer."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 7), nn.Linear(7, 11)
        self.to(torch.float64)


def product(loss):
    """Ours, and the truth."""
    torch.manual_seed(0)
    model = Net()
    parameters = dict(model.named_parameters())
    v, out = directions(parameters, 1), accumulators(parameters, 1)
    DualPass(model, parameters, lambda m, _: loss(m)).hessian({}, v, out)
    gradient = torch.autograd.grad(loss(model), list(parameters.values()), create_graph=True, materialize_grads=True)
    along = sum((g * v[n][0]).sum() for n, g in zip(parameters, gradient, strict=True))
    rows = torch.autograd.grad(along, list(parameters.values()), materialize_grads=True)
    flat = [torch.cat([t.flatten() for t in many]) for many in ([o[0] for o in out.values()], rows)]
    return flat[0], flat[1]


def written_after(same):
    """A write, a function that may be nothing, and a write into its result."""

    def loss(model):
        h = model.embed.weight * 1
        h[:, 0] = 0
        other = same(h)
        other[:, 1] = 0
        other += other.sum()
        return h.pow(3).sum() + other.sin().sum()

    return loss


NOTHING = {
    "contiguous": lambda h: h.contiguous(),
    "to": lambda h: h.to(torch.float64),
    "type_as": lambda h: h.type_as(h),
    "dropout": lambda h: F.dropout(h, 0.1, False),
    "reshape": lambda h: h.reshape(11, 7),
    "movedim": lambda h: h.movedim(0, 0),
    "positive": lambda h: +h,
    "atleast": lambda h: torch.atleast_2d(h),
    "clone": lambda h: h.clone(),
    "input=": lambda h: torch.unsqueeze(input=h, dim=0)[0],
}


@pytest.mark.parametrize("name", NOTHING)
def test_functions_that_do_nothing(name):
    found, truth = product(written_after(NOTHING[name]))
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-11)


def test_views_through_every_function():
    """Also through those that have no rule of their own."""

    def loss(model):
        h = model.embed.weight * 1
        h.movedim(0, 1)[0] = 0
        torch.linalg.diagonal(h).mul_(2)
        h.as_strided((4,), (7,), 3).add_(1)
        return h.pow(3).sum()

    found, truth = product(loss)
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-11)


def test_a_cast_that_is_left_out_is_a_copy():
    """float() of a float64 model: nothing is rounded, but a write into the result is none into the value."""

    def loss(model, cast):
        h = model.embed.weight * 1
        other = cast(h)
        other.mul_(3)
        return h.pow(3).sum() + other.sin().sum()

    found, _ = product(lambda m: loss(m, lambda t: t.float()))
    _, truth = product(lambda m: loss(m, lambda t: t.clone()))
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-11)


def scaled_after_the_slice(model, z):
    shift = z[:, :-1]
    z.div_(2.0)
    return shift.reshape(-1, 11)


def slice_scaled(model, z):
    z[:, :-1].div_(2.0)
    return z[:, :-1].reshape(-1, 11)


def slice_and_whole(model, z):
    shift = z[:, :-1]
    shift *= model.head.bias
    return torch.cat([shift, z[:, 1:]], 1)[:, :5].reshape(-1, 11)


def view_written(model, z):
    rows = z.view(-1, 11)
    z[..., 5] = 0.3
    return rows.view(2, 6, 11)[:, :-1].flatten(0, 1)


def copies_stay(model, z):
    shift = z[:, :-1].contiguous()
    rows = z[:, 1:].reshape(-1, 11)
    z.mul_(0.5)
    shift.mul_(3.0)
    return shift.view(-1, 11) + rows + z[:, 1:].flatten(0, 1)


def no_copies(model, z):
    same = z.contiguous().to(torch.float64)
    same.mul_(0.5)
    return z[:, :-1].reshape(-1, 11)


def forced_slice(model, z):
    """A slice whose values were asked for keeps its place in memory."""
    shift = z[:, :-1]
    total = shift.exp().sum()
    rows = shift.reshape(-1, 11)
    shift.mul_(0.5)
    return rows * total.log() + shift.flatten(0, 1)


@pytest.mark.parametrize(
    "between",
    [scaled_after_the_slice, slice_scaled, slice_and_whole, view_written, copies_stay, no_copies, forced_slice],
)
def test_logits_that_are_put_off(between):
    """Slices and views of the output layer's result share its memory, though neither is computed yet."""

    def loss(model):
        z = model.head(model.embed(IDS))
        return F.cross_entropy(between(model, z), IDS[:, 1:].reshape(-1)) + z.square().mean()

    found, truth = product(loss)
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-11)


def test_logits_that_are_put_off_stay_so(monkeypatch):
    """No whole logits through a slice, a cast, and a flattening."""
    from fastunlearn.dual.rules.logits import DeferredLogits

    monkeypatch.setattr(DeferredLogits, "force", lambda *_: pytest.fail("whole logits"))

    def loss(model):
        z = model.head(model.embed(IDS))
        a = F.cross_entropy(z[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
        b = F.cross_entropy(z[..., :-1, :].contiguous().view(-1, 11), IDS[:, 1:].flatten())
        return a + F.cross_entropy(z[:, :-1].float().view(-1, 11), IDS[:, 1:].flatten()) + b

    model = Net()
    parameters = dict(model.named_parameters())
    out = accumulators(parameters, 1)
    DualPass(model, parameters, lambda m, _: loss(m)).hessian({}, directions(parameters, 1), out)


def unseen_result(model, h):
    """What the function returns is its argument."""
    with torch.no_grad():
        h = h.clamp_(-0.5, 0.5)
    return h


def unseen_view(model, h):
    first = h[:, 0]
    with torch.no_grad():
        first.mul_(3)
        F.relu(h[:, 1], inplace=True)
        h[:, 2] = h[:, 3]
    return h * first.sum()


def unseen_copy(model, h):
    """In float64 a cast to float32 is left out, but stays a copy."""
    other = h.float()
    with torch.no_grad():
        other.mul_(2)
    return other.double() + h


@pytest.mark.parametrize("between", [unseen_result, unseen_view, unseen_copy])
def test_writes_inside_no_grad(between):
    """They change the value alone: what autograd has noted of it stays."""

    def loss(model):
        return between(model, model.embed.weight * 1).pow(3).sum()

    found, truth = product(loss)
    assert truth.norm() > 1
    torch.testing.assert_close(found, truth, rtol=1e-6 if between is unseen_copy else 1e-9, atol=1e-6)


def test_a_block_that_hands_on_what_was_written_to():
    """The result of a repeated block is its argument itself."""

    class Same(nn.Module):
        def forward(self, h):
            return h

    class Stack(Net):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([Same(), Same()])

    def loss(model):
        h = model.embed.weight * 1
        h[:, 0] = 0
        other = model.layers[0](h)
        other[:, 1] = 0
        return h.pow(3).sum()

    torch.manual_seed(0)
    model = Stack()
    model.layers[0].p, model.layers[1].p = (nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
    parameters = {"w": model.embed.weight}
    for memory in ("store", "recompute"):
        v, out = directions(parameters, 1), accumulators(parameters, 1)
        DualPass(model, parameters, lambda m, _: loss(m), memory).hessian({}, v, out)
        truth = 6 * model.embed.weight.detach() * v["w"][0]
        truth[:, :2] = 0
        torch.testing.assert_close(out["w"][0], truth)
