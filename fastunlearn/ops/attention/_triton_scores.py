"""What the attention kernels share: loads of a tile's rows, and scores with their tangents."""

import triton
import triton.language as tl

from fastunlearn.ops._triton_math import tanh


@triton.jit
def places(base, start, stride, length, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Addresses of rows [start, start + ROWS) of a matrix of `length` rows and WIDTH columns, and which exist."""
    row = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    # The tile's start is added in 64 bits: a long sequence passes 2^31 elements. Inside the tile 32 bits do.
    where = base + tl.cast(start, tl.int64) * stride + row[:, None] * stride + column[None, :]
    inside = (start + row < length)[:, None]
    if WIDTH != COLUMNS:
        inside = inside & (column < WIDTH)[None, :]
    return where, inside


@triton.jit
def load_rows(base, start, stride, length, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Those rows; what lies outside is zero."""
    where, inside = places(base, start, stride, length, WIDTH, ROWS, COLUMNS)
    return tl.load(where, mask=inside, other=0.0)


@triton.jit
def store_rows(base, start, stride, length, value, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    where, inside = places(base, start, stride, length, WIDTH, ROWS, COLUMNS)
    tl.store(where, value.to(base.dtype.element_ty), mask=inside)


@triton.jit
def add_rows(base, start, stride, length, value, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Adds to rows of a float32 matrix, by atomics."""
    where, inside = places(base, start, stride, length, WIDTH, ROWS, COLUMNS)
    tl.atomic_add(where, value, mask=inside, sem="relaxed")


@triton.jit
def cap_scores(s, st, softcap, SOFTCAP: tl.constexpr, DUAL: tl.constexpr):
    """s -> c tanh(s / c), its tangent, and the slope 1 - tanh^2 (1 where there is no cap)."""
    slope = 1.0
    if SOFTCAP:
        t = tanh(s / softcap)
        slope = 1 - t * t
        s = softcap * t
        if DUAL:
            st = st * slope
    return s, st, slope


@triton.jit
def mask_scores(
    s, i, j, S, T, window, mask, mask_i, mask_j, slope,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, MASK: tl.constexpr, ALIBI: tl.constexpr,
):  # fmt: skip
    """Adds ALiBi and a float mask; what query i may not see of key j becomes -inf. i and j broadcast to s.

    MASK: 0 none, 1 bool (as bytes), 2 float. `mask` is the base of this head; mask_i, mask_j its strides."""
    seen = (i < S) & (j < T)
    if CAUSAL:
        seen = seen & (j <= i)
    if WINDOW:
        seen = seen & (j > i - window)
    if ALIBI:
        s = s + slope * (j - i).to(tl.float32)
    if MASK != 0:
        where = mask + i.to(tl.int64) * mask_i + j.to(tl.int64) * mask_j
        given = tl.load(where, mask=(i < S) & (j < T), other=0)
        if MASK == 1:
            seen = seen & (given != 0)
        else:
            s = s + given.to(tl.float32)
    return tl.where(seen, s, float("-inf"))
