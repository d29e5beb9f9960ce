"""RMSNorm and LayerNorm (CENTER): the dual pair, a row per program, and the sums over rows for weight and bias.

With xh = r (x - mean), r = (mean square + eps)^-1/2, m = mean(xh xt), c = mean(xh u) and ' for "less its mean":

    xht = r (xt' - m xh)            J u = r (u' - c xh)
    (dJ . xt) u = -r (r m (u' - c xh) + c xht + mean(xht u) xh)
"""

import triton
import triton.language as tl


@triton.jit
def _row(base, at, inside):
    return tl.load(base + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _centred(value, inside, N, CENTER: tl.constexpr):
    if CENTER:
        value = tl.where(inside, value - tl.sum(value, 0) / N, 0.0)
    return value


@triton.jit
def norm_forward(
    x, xt, weight, weight_t, bias, bias_t, y, yt, x_n, xt_k, xt_n, weight_k, bias_k, M, N, K, eps, offset,
    CENTER: tl.constexpr, HAS_XT: tl.constexpr, HAS_W: tl.constexpr, HAS_WT: tl.constexpr,
    HAS_B: tl.constexpr, HAS_BT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < N
    middle = _centred(_row(x, row * x_n + column, inside), inside, N, CENTER)
    r = tl.rsqrt(tl.sum(middle * middle, 0) / N + eps)
    xh = middle * r
    scale = tl.full((BLOCK,), 1.0, tl.float32)
    if HAS_W:
        scale = offset + _row(weight, column, inside)
    value = xh * scale
    if HAS_B:
        value += _row(bias, column, inside)
    at = row * N + column
    tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)
    if HAS_XT or HAS_WT or HAS_BT:
        for k in range(0, K):
            k = tl.cast(k, tl.int64)
            moved = tl.zeros((BLOCK,), tl.float32)
            if HAS_XT:
                tangent = _row(xt, k * xt_k + row * xt_n + column, inside)
                m = tl.sum(xh * tangent, 0) / N
                moved = r * (_centred(tangent, inside, N, CENTER) - m * xh) * scale
            if HAS_WT:
                moved += xh * _row(weight_t, k * weight_k + column, inside)
            if HAS_BT:
                moved += _row(bias_t, k * bias_k + column, inside)
            tl.store(yt + k * M * N + at, moved.to(y.dtype.element_ty), mask=inside)


@triton.jit
def norm_backward(
    x, xt, weight, weight_t, g, h, gx, hx, rows, moments, x_n, xt_k, xt_n, weight_k, g_n, h_k, h_n,
    M, N, K, eps, offset,
    CENTER: tl.constexpr, HAS_XT: tl.constexpr, HAS_W: tl.constexpr, HAS_WT: tl.constexpr,
    HAS_G: tl.constexpr, HAS_H: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """gx = J u, u = scale g; hx = J (scale h + wt g) + (dJ . xt) u. rows (2, M): mean and r of every row;
    moments (2, K, M): mean(xt) and m. norm_weights uses both."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < N
    middle = _row(x, row * x_n + column, inside)
    mean = 0.0
    if CENTER:
        mean = tl.sum(middle, 0) / N
        middle = tl.where(inside, middle - mean, 0.0)
    r = tl.rsqrt(tl.sum(middle * middle, 0) / N + eps)
    xh = middle * r
    tl.store(rows + row, mean)
    tl.store(rows + M + row, r)
    scale = tl.full((BLOCK,), 1.0, tl.float32)
    if HAS_W:
        scale = offset + _row(weight, column, inside)
    at = row * N + column
    adjoint, u, plain, c = xh, xh, xh, r
    if HAS_G:
        adjoint = _row(g, row * g_n + column, inside)
        u = scale * adjoint
        c = tl.sum(xh * u, 0) / N
        plain = _centred(u, inside, N, CENTER) - c * xh
        tl.store(gx + at, (r * plain).to(x.dtype.element_ty), mask=inside)
    if HAS_H or HAS_XT or (HAS_G and HAS_WT):
        for k in range(0, K):
            k = tl.cast(k, tl.int64)
            into = tl.zeros((BLOCK,), tl.float32)
            if HAS_H:
                into = scale * _row(h, k * h_k + row * h_n + column, inside)
            if HAS_G and HAS_WT:
                into += adjoint * _row(weight_t, k * weight_k + column, inside)
            result = r * (_centred(into, inside, N, CENTER) - tl.sum(xh * into, 0) / N * xh)
            if HAS_XT:
                tangent = _row(xt, k * xt_k + row * xt_n + column, inside)
                m = tl.sum(xh * tangent, 0) / N
                tl.store(moments + k * M + row, tl.sum(tangent, 0) / N)
                tl.store(moments + (K + k) * M + row, m)
                if HAS_G:
                    xht = r * (_centred(tangent, inside, N, CENTER) - m * xh)
                    result -= r * (r * m * plain + c * xht + tl.sum(xht * u, 0) / N * xh)
            if HAS_H or HAS_G:
                tl.store(hx + k * M * N + at, result.to(x.dtype.element_ty), mask=inside)


@triton.jit
def norm_weights(
    x, xt, g, h, rows, moments, weight_h, bias_h, x_n, xt_k, xt_n, g_n, h_k, h_n, M, N, K, SHARE,
    CENTER: tl.constexpr, CURVED: tl.constexpr, HAS_H: tl.constexpr, WANT_W: tl.constexpr, WANT_B: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Sums over SHARE rows of h xh + g xht and of h, for BLOCK_N channels and one tangent: (shares, K, N)."""
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    share, k = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    sum_w, sum_b = tl.zeros((BLOCK_N,), tl.float32), tl.zeros((BLOCK_N,), tl.float32)
    first = share * SHARE
    for start in range(0, SHARE, BLOCK_M):
        row = first + start + tl.arange(0, BLOCK_M)
        here = (row < M) & (row < first + SHARE)
        inside = here[:, None] & (column < N)[None, :]
        if WANT_W:
            mean = tl.load(rows + row, mask=here, other=0.0)[:, None]
            r = tl.load(rows + M + row, mask=here, other=0.0)[:, None]
            value = tl.load(x + row[:, None] * x_n + column[None, :], mask=inside, other=0.0).to(tl.float32)
            xh = (value - mean) * r
        if HAS_H:
            incoming = tl.load(h + k * h_k + row[:, None] * h_n + column[None, :], mask=inside, other=0.0)
            incoming = incoming.to(tl.float32)
            if WANT_W:
                sum_w += tl.sum(incoming * xh, 0)
            if WANT_B:
                sum_b += tl.sum(incoming, 0)
        if CURVED and WANT_W:
            adjoint = tl.load(g + row[:, None] * g_n + column[None, :], mask=inside, other=0.0).to(tl.float32)
            tangent = tl.load(xt + k * xt_k + row[:, None] * xt_n + column[None, :], mask=inside, other=0.0)
            m = tl.load(moments + (K + k) * M + row, mask=here, other=0.0)[:, None]
            tangent = tangent.to(tl.float32) - m * xh
            if CENTER:
                tangent -= tl.load(moments + k * M + row, mask=here, other=0.0)[:, None]
            sum_w += tl.sum(adjoint * r * tangent, 0)
    at = (share * K + k) * N + column
    if WANT_W:
        tl.store(weight_h + at, sum_w, mask=column < N)
    if WANT_B:
        tl.store(bias_h + at, sum_b, mask=column < N)
