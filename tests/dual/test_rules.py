"""Rules one by one: losses of two parameters, built from the functions at hand, against double backward."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastunlearn.dual import DualPass, UnsupportedOperationError

from .oracle import accumulators, directions

X = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([1, 2, 3])


class Pair(nn.Module):
    """a (5, 4) and b (5,)."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.randn(5, 4, dtype=torch.float64))
        self.b = nn.Parameter(torch.randn(5, dtype=torch.float64))


def views_in_place(a, b):
    """A write into a slice is a write into its base and into the base's other views."""
    base = a * 2
    other = base.view(2, 10)
    before = base * 3
    base[:, :3].mul_(b[0])
    base += 1
    return base.pow(3).sum() + other.pow(2).sum() * before.sum()


def constants_written_to(a, b):
    whole = torch.zeros(4, 4, dtype=torch.float64)
    whole[1:3] = a[:2]
    added = torch.zeros(6, 4, dtype=torch.float64)
    added.index_add_(0, torch.tensor([1, 1, 2, 3, 4]), a)
    row = torch.zeros(3, 3, dtype=torch.float64)
    row[0].add_(a[0, :3])
    return whole.pow(3).sum() + added.pow(2).sum() + row.pow(3).sum() * b.sum()


def overwritten(a, b):
    """What a value was before a write stays in what was computed from it."""
    x = a * 1
    before = x * 3
    x.fill_(2.0)
    x[0] = b[:4]
    return (before.square() * x.clone()).sum() + (x.masked_fill_(x > 0, 0.5) * a).sum()


def named(a, b):
    """Arguments by their names, and a question about the type."""
    assert (a * 1).type() == "torch.DoubleTensor"
    y = torch.transpose(input=a, dim0=0, dim1=1) * torch.neg(input=b)
    parts = torch.chunk(input=torch.reshape(input=y, shape=(2, 10)), chunks=2, dim=1)
    return torch.sum(input=parts[0].type(torch.float64) ** 3) + torch.matmul(input=a, other=y).sin().sum()


def flags(a, b):
    x = a * 1
    return F.relu(x, inplace=True).pow(3).sum() + x.pow(2).sum() * b.sum()


def chunks(a, b):
    parts = [(p**3).sum() * (i + 1) for i, p in enumerate((*a.split([1, 3], 1), *a.chunk(2, 0), a.unbind(0)[1]))]
    return sum(parts) + b.exp().sum()


def experts(a, b):
    """Routing by data: indices are constants, what they pick is not."""
    scores = torch.softmax(X @ a.T, -1)
    weights, picked = scores.topk(2, -1)
    out = torch.zeros_like(X)
    for expert in range(5):
        rows, place = torch.where(picked == expert)
        out.index_add_(0, rows, (X[rows] * a[expert]).sin() * weights[rows, place, None] * b[expert])
    return out.square().sum()


LOSSES = {
    "linear": lambda a, b: F.linear(X, a, b).pow(3).sum(),
    "matmul of parameters": lambda a, b: (F.softmax(a @ a.T, -1) @ a).pow(2).sum() * b.exp().sum(),
    "batched matmul": lambda a, b: (a[None] * X[:, None] @ a.T).sin().sum() * b.sum(),
    "cross entropy": lambda a, b: F.cross_entropy(F.linear(X, a, b).sin(), Y),
    "cross entropy, none": lambda a, b: (F.cross_entropy(F.linear(X, a, b), Y, reduction="none") ** 2).sum(),
    "cross entropy, smooth": lambda a, b: F.cross_entropy(F.linear(X, a, b), Y, label_smoothing=0.1),
    "cross entropy, axes": lambda a, b: F.cross_entropy(F.linear(X, a, b).T[None], Y[None], ignore_index=2),
    "log softmax": lambda a, b: -F.log_softmax(F.linear(X, a, b), -1).gather(1, Y[:, None]).mean(),
    "embedding": lambda a, b: F.embedding(Y, a, padding_idx=2).pow(3).sum() + b.exp().sum(),
    "shapes": lambda a, b: (a.view(2, 10)[:, None].expand(2, 3, 10) * b.sum()).permute(2, 0, 1).sin().sum(),
    "concatenation": lambda a, b: torch.cat([a[:, :2], a[:, 2:] * 2, b[:, None]], -1).transpose(0, 1).pow(3).sum(),
    "stack and where": lambda a, b: torch.where(a > 0, torch.stack([b] * 4, 1) ** 2, a.sin()).pow(2).sum(),
    "gated": lambda a, b: (F.silu(a) * (a * b[:, None])).pow(2).sum() + (F.silu(a[:, :1]) * a).sin().sum(),
    "activations": lambda a, b: (F.gelu(a, approximate="tanh") + F.gelu(a) * torch.tanh(b)[:, None]).pow(2).sum(),
    "norms": lambda a, b: F.layer_norm(a, (4,), b[:4]).pow(3).sum() + F.rms_norm(a, (4,), b[:4], 1e-6).pow(3).sum(),
    "broadcast sums": lambda a, b: ((1.0 + b[:, None] - a) * (2 - b).exp()[:, None] / 3 + a).pow(3).mean(),
    "division": lambda a, b: (a / a.norm() / b[:, None]).pow(2).sum() + (1 / (1 + b * b)).sum(),
    "einsum": lambda a, b: torch.einsum("ij,kj->ik", a, a).logsumexp(-1).sum() * b.sum(),
    "prod and erf": lambda a, b: torch.erf(a).prod() * b.prod(),
    "cumsum": lambda a, b: (a.cumsum(0).pow(3).mean(0) * b[:4]).sum() + a.cumprod(1).sum(),
    "pow": lambda a, b: (a.abs() + 1).pow(b[0]).sum() + 2.0**b[1],
    "sort and max": lambda a, b: (a.sort(-1).values * b[:4]).square().sum() + a.max(0).values.pow(3).sum(),
    "complex": lambda a, b: (torch.view_as_complex(a.view(5, 2, 2)) * torch.polar(b**2 + 1, b)[:, None]).abs().sum(),
    "by name": lambda a, b: named(a, b),
    "views in place": views_in_place,
    "constants written to": constants_written_to,
    "overwritten": overwritten,
    "inplace=True": flags,
    "chunks": chunks,
    "experts": experts,
}  # fmt: skip


def attention(a, b, **options):
    q = (a * b[:, None])[None, None]
    return F.scaled_dot_product_attention(q, a[None, None], q.sin(), **options).pow(2).sum()


def to_complex(a, b):
    """A cast from real to complex numbers, and one that only says where they lie, have derivatives."""
    z = a.to(torch.complex128) * (1 + 2j) + b.type(torch.complex128)[:, None] ** 2
    w = torch.complex(b, b.exp()).to("cpu").to(torch.complex128).type_as(z)
    return z.imag.pow(3).sum() + (z.real * w.imag[:, None]).sin().sum() + a.view(dtype=torch.complex128).abs().sum()


def strided(a, b):
    """A part of a value by its place in memory: tangents lie elsewhere than the value."""
    half = torch.cat([b[:, None], a], -1)[:, 1:]
    return half.as_strided((3, 4), (5, 1), 6).pow(3).sum() + (a.T * 2).as_strided((4, 5), (1, 4)).sin().sum() * b.sum()


LOSSES["to complex"], LOSSES["as strided"] = to_complex, strided
LOSSES["named tuple"] = lambda a, b: torch.stack(torch.aminmax(a * b[:, None])).pow(3).sum()
LOSSES["attention, causal"] = lambda a, b: attention(a, b, is_causal=True)
LOSSES["attention, mask"] = lambda a, b: attention(a, b, attn_mask=torch.ones(5, 5, dtype=torch.bool).tril(1))
LOSSES["attention, learnt bias"] = lambda a, b: attention(a, b, attn_mask=a @ a.T, scale=0.3)


@pytest.mark.parametrize("name", LOSSES)
def test_second_derivatives(name):
    model, loss = Pair(), LOSSES[name]
    parameters = dict(model.named_parameters())
    v, out = directions(parameters, 3), accumulators(parameters, 3)
    result = DualPass(model, parameters, lambda m, _: loss(m.a, m.b)).hessian({}, v, out)
    with sdpa_kernel(SDPBackend.MATH):
        value = loss(model.a, model.b)
        gradient = torch.autograd.grad(value, [model.a, model.b], create_graph=True)
        torch.testing.assert_close(result.loss, value.detach())
        for k in range(3):
            along = sum((g * v[n][k]).sum() for n, g in zip(parameters, gradient, strict=True))
            rows = torch.autograd.grad(along, [model.a, model.b], retain_graph=True, materialize_grads=True)
            torch.testing.assert_close(result.loss_t[k], along.detach())
            for n, row in zip(parameters, rows, strict=True):
                torch.testing.assert_close(out[n][k], row, rtol=1e-9, atol=1e-11)
    ordinary = accumulators(parameters, 1)
    DualPass(model, parameters, lambda m, _: loss(m.a, m.b)).gradient({}, ordinary)
    for n, g in zip(parameters, gradient, strict=True):
        torch.testing.assert_close(ordinary[n][0], g.detach(), rtol=1e-9, atol=1e-11)


def test_a_constant_that_others_see_is_not_written_to():
    def loss(model, _):
        whole = torch.zeros(5, 4, dtype=torch.float64)
        seen = whole[0]
        whole[1:] = model.a[1:]
        return (whole * seen).sum() + model.b.sum()

    model = Pair()
    parameters = dict(model.named_parameters())
    with pytest.raises(UnsupportedOperationError, match="written in place into a constant"):
        DualPass(model, parameters, loss).hessian({}, directions(parameters, 1), accumulators(parameters, 1))


def test_values_that_leave_a_recomputed_block_by_the_side():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4, dtype=torch.float64))

        def forward(self, x):
            self.aside = x @ self.weight
            return self.aside.tanh()

    model = nn.Module()
    model.layers = nn.ModuleList([Block(), Block()])

    def loss(m, _):
        return (m.layers[1](m.layers[0](X)) + m.layers[0].aside).square().sum()

    parameters = dict(model.named_parameters())
    v, out = directions(parameters, 1), accumulators(parameters, 1)
    DualPass(model, parameters, loss, memory="store").hessian({}, v, out)
    with pytest.raises(UnsupportedOperationError, match='use memory="store"'):
        DualPass(model, parameters, loss, memory="recompute").hessian({}, v, out)
