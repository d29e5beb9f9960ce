"""Tensors whose sign PyTorch puts off to the next operation, as the imaginary part of a conjugate is: the CPU kernels
read memory, where the sign must be."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.ops import activation, ghost_gram, linear, linear_cross_entropy, low_rank_apply, norm, rope
from fastunlearn.ops.attention import AttentionSpec, dual_backward, dual_forward
from tests.ops.dual_cases import needs_cpu

pytestmark = needs_cpu
LABELS, OFFSETS = torch.tensor([0, 3, -100, 1]), torch.tensor([0, 1, 4])


def attention(q, k, v, mask, g):
    spec = AttentionSpec(0.3, mask=mask, alibi=mask[0, :2])
    o, ot, stats = dual_forward(q, k, v, q[None], k[None], v[None], spec, backend="cpu")
    return o, ot, *dual_backward(q, k, v, q[None], k[None], v[None], o, ot, stats, g, g[None], spec, backend="cpu")


def head(x, w, b, s):
    nll, gx = linear_cross_entropy.backward(x, w, LABELS, s, bias=b, backend="cpu")
    return nll, gx, linear_cross_entropy.dual_forward(x, x[None], w, w[None], LABELS, b, b[None], backend="cpu")[1]


# name: (function of the tensors, their shapes)
CASES = {
    "activation": (lambda x: activation.dual_backward(x, x[None], x, x[None], "silu", backend="cpu"), [(4, 6)]),
    "norm": (
        lambda x, w: norm.rms_norm_dual_backward(x, x[None], w, w[None], x, x[None], 1e-5, backend="cpu"),
        [(4, 6), (6,)],
    ),
    "rope": (lambda x, c, s: (rope.apply(x, c, s, backend="cpu"),), [(2, 4, 6)] + 2 * [(4, 6)]),
    "linear": (
        lambda x, w, b: (*linear.dual_forward(x, x[None], w, w[None], b, b[None], backend="cpu"),
                         *linear.dual_backward(w, w[None], x @ w.T, None, backend="cpu")),
        [(4, 6), (5, 6), (5,)],
    ),
    "weight product": (
        lambda x, g: (linear.weight_product(x, x[None], g, g[None], torch.zeros(1, 5, 6), backend="cpu"),),
        [(4, 6), (4, 5)],
    ),
    "cross-entropy": (head, [(4, 6), (5, 6), (5,), (4,)]),
    "gram": (lambda x, g: (ghost_gram.ghost_gram(x, g, OFFSETS, backend="cpu"),), [(4, 6), (4, 5)]),
    "stored rows": (lambda g, v: (low_rank_apply.dot(g, v, backend="cpu"),), [(2, 3, 6), (1, 2, 6)]),
    "attention": (attention, [(1, 2, 4, 6)] * 3 + [(4, 4), (1, 2, 4, 6)]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_sign_counts(name):
    """One tensor after the other, contiguous with the sign put off and as the part of complex numbers."""
    run, shapes = CASES[name]
    plain = [torch.randn(shape) for shape in shapes]
    want = run(*plain)
    for number, value in enumerate(plain):
        for moved in (torch._neg_view(-value), torch.complex(value, -value).conj().imag):
            assert moved.is_neg() and torch.equal(moved, value)
            if name == "stored rows" and not moved.is_contiguous():
                continue
            for got, truth in zip(run(*plain[:number], moved, *plain[number + 1 :]), want, strict=True):
                assert torch.equal(got, truth)
