"""Activations with two derivatives, and the dual pair of ``f(x)`` and of ``f(gate) up``, elementwise.

Tensors are rows of N contiguous numbers with any distance between rows (the halves of one projection). A program
makes BLOCK numbers of one row for all K tangents, so that the primal is read and its derivatives are made once.
"""

import triton
import triton.language as tl

from fastunlearn.ops._triton_math import log1p, normal, tanh


@triton.jit
def _at_least(x, least):
    """The larger one; NaN where x is that."""
    return tl.maximum(x, least, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def derivatives(x, KIND: tl.constexpr):
    """f, f', f'' in float32, term by term as in reference.py."""
    if KIND == "relu" or KIND == "relu2":
        positive = _at_least(x, 0.0)
        step = tl.where(x > 0, 1.0, 0.0)
        if KIND == "relu":
            return positive, step, tl.zeros_like(x)
        return positive * positive, 2 * positive, 2 * step
    elif KIND == "gelu":
        below, density = normal(x)
        near = tl.minimum(_at_least(x, -100.0), 100.0, propagate_nan=tl.PropagateNan.ALL)  # beyond it the density is 0
        return x * below, below + near * density, density * (2 - near * near)
    elif KIND == "gelu_tanh":
        near = tl.minimum(_at_least(x, -20.0), 20.0, propagate_nan=tl.PropagateNan.ALL)
        w = 1.5957691216057308 * (near + 0.044715 * near * near * near)
        w1 = 1.5957691216057308 * (1 + 0.134145 * near * near)
        w2 = 0.42813093497634 * near
        s, rest = tl.sigmoid(w), tl.sigmoid(-w)
        first = s * rest * w1
        return x * s, s + near * first, 2 * first + near * s * rest * (w2 + (rest - s) * w1 * w1)
    elif KIND == "tanh":
        t = tanh(x)
        first = 4 * tl.sigmoid(2 * x) * tl.sigmoid(-2 * x)
        return t, first, -2 * t * first
    elif KIND == "sigmoid" or KIND == "softplus":
        s, rest = tl.sigmoid(x), tl.sigmoid(-x)
        if KIND == "sigmoid":
            return s, s * rest, s * rest * (rest - s)
        return _at_least(x, 0.0) + log1p(tl.exp(-tl.abs(x))), s, s * rest
    else:
        tl.static_assert(KIND == "silu" or KIND == "quick_gelu", "an activation that this kernel does not know")
        slope: tl.constexpr = 1.702 if KIND == "quick_gelu" else 1.0
        s, rest = tl.sigmoid(slope * x), tl.sigmoid(-slope * x)
        return x * s, s * (1 + slope * x * rest), slope * s * rest * (2 + slope * x * (rest - s))


@triton.jit
def activation_forward(
    x, up, xt, up_t, y, yt, x_n, up_n, xt_k, xt_n, up_k, up_tn, M, N, K,
    KIND: tl.constexpr, HAS_UP: tl.constexpr, HAS_XT: tl.constexpr, HAS_UP_T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(N, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    column = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < N
    f, f1, _ = derivatives(tl.load(x + row * x_n + column, mask=inside, other=0.0).to(tl.float32), KIND)
    value = f
    if HAS_UP:
        u = tl.load(up + row * up_n + column, mask=inside, other=0.0).to(tl.float32)
        value = f * u
        f1 = f1 * u
    at = row * N + column
    tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)
    if HAS_XT or HAS_UP_T:
        for k in range(0, K):
            k = tl.cast(k, tl.int64)
            moved = tl.zeros_like(f)
            if HAS_XT:
                moved += f1 * tl.load(xt + k * xt_k + row * xt_n + column, mask=inside, other=0.0).to(tl.float32)
            if HAS_UP_T:
                moved += f * tl.load(up_t + k * up_k + row * up_tn + column, mask=inside, other=0.0).to(tl.float32)
            tl.store(yt + k * M * N + at, moved.to(y.dtype.element_ty), mask=inside)


@triton.jit
def activation_backward(
    x, up, xt, up_t, g, h, gx, g_up, hx, h_up, x_n, up_n, xt_k, xt_n, up_k, up_tn, g_n, h_k, h_n, M, N, K,
    KIND: tl.constexpr, HAS_UP: tl.constexpr, HAS_XT: tl.constexpr, HAS_UP_T: tl.constexpr,
    HAS_G: tl.constexpr, HAS_H: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """gx = f' u g, g_up = f g; hx = f' (u h + ut g) + f'' u xt g, h_up = f h + f' xt g (u = 1 without HAS_UP)."""
    CURVED: tl.constexpr = HAS_G and HAS_XT
    blocks = tl.cdiv(N, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    column = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < N
    at = row * N + column
    f, f1, f2 = derivatives(tl.load(x + row * x_n + column, mask=inside, other=0.0).to(tl.float32), KIND)
    first, second = f1, f2
    if HAS_UP:
        u = tl.load(up + row * up_n + column, mask=inside, other=0.0).to(tl.float32)
        first, second = f1 * u, f2 * u
    adjoint = f
    if HAS_G:
        adjoint = tl.load(g + row * g_n + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(gx + at, (first * adjoint).to(x.dtype.element_ty), mask=inside)
        if HAS_UP:
            tl.store(g_up + at, (f * adjoint).to(x.dtype.element_ty), mask=inside)
    if HAS_H or CURVED or (HAS_G and HAS_UP_T):
        for k in range(0, K):
            k = tl.cast(k, tl.int64)
            to_x, to_up = tl.zeros_like(f), tl.zeros_like(f)
            if HAS_H:
                incoming = tl.load(h + k * h_k + row * h_n + column, mask=inside, other=0.0).to(tl.float32)
                to_x, to_up = first * incoming, f * incoming
            if CURVED:
                moved = adjoint * tl.load(xt + k * xt_k + row * xt_n + column, mask=inside, other=0.0).to(tl.float32)
                to_x += second * moved
                to_up += f1 * moved
            if HAS_G and HAS_UP_T:
                to_x += f1 * adjoint * tl.load(
                    up_t + k * up_k + row * up_tn + column, mask=inside, other=0.0
                ).to(tl.float32)
            tl.store(hx + k * M * N + at, to_x.to(x.dtype.element_ty), mask=inside)
            if HAS_UP and (HAS_H or CURVED):
                tl.store(h_up + k * M * N + at, to_up.to(x.dtype.element_ty), mask=inside)
