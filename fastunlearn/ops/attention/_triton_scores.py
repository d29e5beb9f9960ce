"""What the attention kernels share: loads of a tile's rows, and scores with their tangents."""

import triton
import triton.language as tl

from fastunlearn.ops._triton_math import tanh
from fastunlearn.ops._triton_product import banded


@triton.jit
def head_and_block(blocks):
    """Which head is this program's, and which of its blocks: the first blocks of 64 heads, then their second, and so
    on. By causality the first are the longest, as callers count them: with head after head the last head's longest
    would begin when all else is nearly done."""
    return banded(tl.program_id(0), blocks, tl.num_programs(0) // blocks, 64)


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
def load_part(base, start, stride, length, first, WIDTH: tl.constexpr, ROWS: tl.constexpr, PART: tl.constexpr):
    """Columns [first, first + PART) of those rows; what lies outside of WIDTH columns is zero."""
    where, inside = places(base + first, start, stride, length, PART, ROWS, PART)
    if WIDTH % PART != 0:
        inside = inside & (first + tl.arange(0, PART) < WIDTH)[None, :]
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
def store_tile(base, stride, value, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A whole tile: rows and columns that are padding have room too."""
    row = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    tl.store(base + row[:, None] * stride + column[None, :], value.to(base.dtype.element_ty))


@triton.jit
def seen_keys(start, ROWS: tl.constexpr, T, window, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, STEP: tl.constexpr):
    """From where to where queries [start, start + ROWS) see keys; the beginning is a multiple of STEP."""
    low, high = 0, T
    if WINDOW:
        low = tl.maximum(0, start - window + 1) // STEP * STEP
    if CAUSAL:
        high = tl.minimum(T, start + ROWS)
    return low, high


@triton.jit
def seeing_queries(
    start, ROWS: tl.constexpr, S, window, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, STEP: tl.constexpr
):  # fmt: skip
    """From where to where queries see any of keys [start, start + ROWS)."""
    low, high = 0, S
    if CAUSAL:
        low = start // STEP * STEP
    if WINDOW:
        high = tl.minimum(S, start + ROWS - 1 + window)
    return low, high


@triton.jit
def products_in_parts(
    x, xt, y, yt, start, x_s, xt_s, S, m, y_s, yt_s, T, HAS_XT: tl.constexpr, HAS_YT: tl.constexpr,
    PRECISION: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """x y^T and its tangent xt y^T + x yt^T, for rows from `start` of x and from `m` of y, PART of their columns at a
    time: whole rows of all four would take the registers that the results need."""
    product = tl.zeros((ROWS, COLUMNS), tl.float32)
    product_t = tl.zeros((ROWS, COLUMNS), tl.float32)
    for c in range(0, WIDTH, PART):
        a = load_part(x, start, x_s, S, c, WIDTH, ROWS, PART)
        b = tl.trans(load_part(y, m, y_s, T, c, WIDTH, COLUMNS, PART))
        product = tl.dot(a, b, product, input_precision=PRECISION)
        if HAS_XT:
            at = load_part(xt, start, xt_s, S, c, WIDTH, ROWS, PART)
            product_t = tl.dot(at, b, product_t, input_precision=PRECISION)
        if HAS_YT:
            b = tl.trans(load_part(yt, m, yt_s, T, c, WIDTH, COLUMNS, PART))
            product_t = tl.dot(a, b, product_t, input_precision=PRECISION)
    return product, product_t


@triton.jit
def exponential(s, shift, scale, UNSCALED: tl.constexpr):
    """exp(s - shift); UNSCALED: exp(scale s - shift), by one instruction before the exponential's own. That rounds both
    before it subtracts: good for half precision, where float32 would lose digits of large scores.

    By exp2, as exp spends three more instructions on results below 1e-38."""
    if UNSCALED:
        return tl.exp2(s * (scale * 1.4426950408889634) - shift * 1.4426950408889634)
    return tl.exp2((s - shift) * 1.4426950408889634)


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
def cut_off(
    i, ROWS: tl.constexpr, j, COLUMNS: tl.constexpr, T, window, CAUSAL: tl.constexpr, WINDOW: tl.constexpr
):  # fmt: skip
    """Whether any of queries [i, i + ROWS) may not see, by its place, any of keys [j, j + COLUMNS)."""
    found = j + COLUMNS > T
    if CAUSAL:
        found = found | (j + COLUMNS - 1 > i)
    if WINDOW:
        found = found | (j <= i + ROWS - 1 - window)
    return found


@triton.jit
def mask_scores(
    s, i, j, cut, S, T, window, mask, mask_i, mask_j, slope,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, MASK: tl.constexpr, ALIBI: tl.constexpr,
):  # fmt: skip
    """Adds ALiBi and a float mask; what query i may not see of key j becomes -inf. i and j broadcast to s.

    cut: of cut_off, so that tiles that are seen whole, as most of a long sequence, spare themselves the comparisons; or
    True. MASK: 0 none, 1 bool (as bytes), 2 float. `mask` is the base of this head; mask_i, mask_j its strides. Queries
    beyond S count for nothing elsewhere."""
    if ALIBI:
        s = s + slope * (j - i).to(tl.float32)
    if MASK != 0:
        where = mask + i.to(tl.int64) * mask_i + j.to(tl.int64) * mask_j
        given = tl.load(where, mask=(i < S) & (j < T), other=0)
        s = tl.where(given != 0, s, float("-inf")) if MASK == 1 else s + given.to(tl.float32)
    if cut:
        seen = j < T
        if CAUSAL:
            seen = seen & (j <= i)
        if WINDOW:
            seen = seen & (j > i - window)
        s = tl.where(seen, s, float("-inf"))
    return s
