"""The autograd pairs of the ops: every route of differentiation, against finite differences and eager torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastunlearn.accelerate.losses import cross_entropy, log_softmax
from fastunlearn.errors import DerivativeOrderError
from fastunlearn.ops.activation.autograd import activation
from fastunlearn.ops.attention import AttentionSpec
from fastunlearn.ops.attention.autograd import attention
from fastunlearn.ops.gated_mlp.autograd import gated_mlp
from fastunlearn.ops.norm.autograd import layer_norm, rms_norm
from tests.ops.dual_cases import draw

LABELS = torch.tensor([3, -100, 0, 6])
MASK = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(0)) > 0.3


def eager_attention(mask=None, causal=False):
    def run(q, k, v):
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=0.4, enable_gqa=True)

    return run


def eager_rms(x, w):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * w


QKV = [(2, 4, 5, 3), (2, 2, 5, 3), (2, 2, 5, 4)]
# name: (ours, eager, shapes of the primals)
CASES = {
    "silu": (lambda x: activation(x, "silu"), F.silu, [(3, 5)]),
    "gelu": (lambda x: activation(x, "gelu"), F.gelu, [(7,)]),
    "gated": (lambda a, u: gated_mlp(a, u, "gelu_tanh"), lambda a, u: F.gelu(a, approximate="tanh") * u, [(2, 4)] * 2),
    "rms_norm": (lambda x, w: rms_norm(x, w, 1e-5), eager_rms, [(2, 3, 5), (5,)]),
    "rms_norm, no weight": (lambda x: rms_norm(x, None, 1e-5), lambda x: eager_rms(x, 1.0), [(4, 6)]),
    "layer_norm": (
        lambda x, w, b: layer_norm(x, w, b, 1e-5),
        lambda x, w, b: F.layer_norm(x, (6,), w, b),
        [(4, 6), (6,), (6,)],
    ),
    "layer_norm, no bias": (
        lambda x, w: layer_norm(x, w, None, 1e-5), lambda x, w: F.layer_norm(x, (6,), w), [(4, 6), (6,)],
    ),
    "attention, causal": (
        lambda q, k, v: attention(q, k, v, AttentionSpec(0.4, causal=True)), eager_attention(causal=True), QKV,
    ),
    "attention, mask": (
        lambda q, k, v: attention(q, k, v, AttentionSpec(0.4, mask=MASK)), eager_attention(mask=MASK), QKV,
    ),
    "log_softmax": (lambda x: log_softmax(x, 1), lambda x: F.log_softmax(x, 1), [(3, 5, 2)]),
    "cross_entropy": (
        lambda z: cross_entropy(z, LABELS, -100, "mean"), lambda z: F.cross_entropy(z, LABELS), [(4, 7)],
    ),
    "cross_entropy, none": (
        lambda z: cross_entropy(z, LABELS, -100, "none"), lambda z: F.cross_entropy(z, LABELS, reduction="none"),
        [(4, 7)],
    ),
}  # fmt: skip
EACH = pytest.mark.parametrize("name", CASES)


def inputs(name, seed=0, dtype=torch.float64):
    return tuple(draw(shape, dtype, seed + i) for i, shape in enumerate(CASES[name][2]))


def leaves(name):
    return tuple(x.requires_grad_() for x in inputs(name))


@EACH
def test_first_order(name):
    assert gradcheck(CASES[name][0], leaves(name), check_forward_ad=True, fast_mode=True)


@EACH
def test_second_order(name):
    run = CASES[name][0]
    assert gradgradcheck(run, leaves(name), check_fwd_over_rev=True, check_rev_over_rev=True, fast_mode=True)


def close(got, want, limit=1e-12):
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= limit * max(1.0, other.abs().max().item())


def hvp_by_double_backward(run, x, t, weight):
    x = tuple(v.detach().requires_grad_() for v in x)
    first = torch.autograd.grad((run(*x) * weight).sum(), x, create_graph=True)
    return torch.autograd.grad(sum((a * b).sum() for a, b in zip(first, t, strict=True)), x, materialize_grads=True)


def scalar(run, weight):
    return lambda *x: (run(*x) * weight).sum()


@EACH
def test_all_routes_to_the_hessian_agree_with_eager(name):
    ours, eager, shapes = CASES[name]
    x, t = inputs(name), inputs(name, seed=20)
    weight = draw(eager(*x).shape, torch.float64, 30)
    truth = hvp_by_double_backward(eager, x, t, weight)
    every = tuple(range(len(shapes)))
    f = scalar(ours, weight)
    close(hvp_by_double_backward(ours, x, t, weight), truth)
    close(torch.func.jvp(torch.func.grad(f, every), x, t)[1], truth)
    close(torch.func.grad(lambda *a: torch.func.jvp(f, a, t)[1], every)(*x), truth)
    with forward_ad.dual_level():
        moving = tuple(v.detach().requires_grad_() for v in x)
        y = f(*(forward_ad.make_dual(a, b) for a, b in zip(moving, t, strict=True)))
        close(torch.autograd.grad(forward_ad.unpack_dual(y).tangent, moving), truth)


@EACH
def test_vmap_over_vectors_and_over_samples(name):
    ours, eager, shapes = CASES[name]
    x, every = inputs(name), tuple(range(len(shapes)))
    weight = draw(eager(*x).shape, torch.float64, 30)
    many = [inputs(name, seed=20 + 7 * k) for k in range(3)]
    stacked = tuple(torch.stack(parts) for parts in zip(*many, strict=True))
    gradient = torch.func.grad(scalar(ours, weight), every)
    truth = [hvp_by_double_backward(eager, x, t, weight) for t in many]
    truth = tuple(torch.stack(parts) for parts in zip(*truth, strict=True))
    close(torch.func.vmap(lambda *t: torch.func.jvp(gradient, x, t)[1])(*stacked), truth)
    _, back = torch.func.vjp(gradient, *x)
    close(torch.func.vmap(lambda *t: back(t))(*stacked), truth)
    samples = torch.func.vmap(torch.func.grad(scalar(eager, weight), every))(*stacked)
    close(torch.func.vmap(gradient)(*stacked), samples)
    values = torch.func.vmap(ours, in_dims=-1)(*(v.movedim(0, -1) for v in stacked))
    close([values], [torch.stack([eager(*t) for t in many])])


def test_hessian_matrix_by_torch_func():
    ours, eager, _ = CASES["rms_norm"]
    x, w = inputs("rms_norm")
    for how in (torch.func.hessian, lambda f: torch.func.jacrev(torch.func.jacrev(f))):
        got = how(lambda v: ours(v, w).square().sum())(x)
        close([got], [torch.func.hessian(lambda v: eager(v, w).square().sum())(x)])


@EACH
def test_a_third_order_is_refused(name):
    """Never a silent zero: the third derivative raises in both modes."""
    run = CASES[name][0]
    x = tuple(v.requires_grad_() for v in inputs(name))
    first = torch.autograd.grad(run(*x).square().sum(), x, create_graph=True)
    second = torch.autograd.grad(sum(v.square().sum() for v in first), x, create_graph=True)
    with pytest.raises(DerivativeOrderError, match="third"):
        torch.autograd.grad(sum(v.square().sum() for v in second), x)
    with pytest.raises(DerivativeOrderError, match="forward-mode over forward-mode"):
        t = inputs(name, seed=20)
        torch.func.jvp(lambda *a: torch.func.jvp(run, a, t)[1], inputs(name), t)


def test_negative_control():
    """A wrong second derivative is seen: the same comparison with an opaque backward."""

    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return F.silu(x)

        @staticmethod
        def backward(ctx, g):
            return g * torch.sigmoid(ctx.saved_tensors[0].detach())

    x, t = inputs("silu"), inputs("silu", seed=20)
    weight = draw((3, 5), torch.float64, 30)
    truth = hvp_by_double_backward(F.silu, x, t, weight)
    with pytest.raises((AssertionError, RuntimeError)):
        close(hvp_by_double_backward(Opaque.apply, x, t, weight), truth)
