"""Sums over stored tiles of p, ds and their tangents: the reverse sweep's products with rows of q, k and g.

_triton_backward.py has stored them, for queries [row0, row0 + rows), in whole grains: what no query sees of a grain is
zero, and a grain of which nothing is seen was neither written nor is it read. So no load of a tile needs a mask.
"""

import triton
import triton.language as tl

from ._triton_scores import head_and_block, load_rows, seeing_queries, seen_keys, store_rows


@triton.jit
def attention_sums(
    tiles, tiles_t, x, xt, out, out_t,
    x_b, x_h, x_s, xt_b, xt_h, xt_s, H, G, S, T, row0, rows, columns, scale, window,
    KEYS: tl.constexpr, FIRST: tl.constexpr, HAS_TILES_T: tl.constexpr, HAS_XT: tl.constexpr, ADD: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, PRECISION: tl.constexpr, GRAIN: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    """out = scale a x (FIRST) and out_t = scale (a_t x + a xt), a the tiles: ADDed, in float32, to what is there. One
    stream alone is out_t = scale a_t x.

    KEYS: a is transposed, and a program sums over a head's queries for BLOCK_R keys (x is q or g). Otherwise it sums
    over keys for BLOCK_R queries of a head (x is k). Where WIDTH is a multiple of BLOCK_D, columns of x and the results
    are cut likewise; the second number of the program says which are its own."""
    if KEYS:
        length, reach = T, S
        blocks = tl.cdiv(T, BLOCK_R)
        head, number = head_and_block(blocks)
        offset = number * BLOCK_R
        start = offset
        low, high = seeing_queries(start // GRAIN * GRAIN, GRAIN, S, window, CAUSAL, WINDOW, GRAIN)
        low, high = tl.maximum(low, row0), tl.minimum(high, row0 + rows)
    else:
        length, reach = S, T
        blocks = rows // BLOCK_R
        head, number = head_and_block(blocks)
        offset = (blocks - 1 - number) * BLOCK_R
        start = row0 + offset
        low, high = seen_keys(start // GRAIN * GRAIN, GRAIN, T, window, CAUSAL, WINDOW, GRAIN)
    high = tl.cdiv(high, GRAIN) * GRAIN
    head = head.to(tl.int64)
    b, n, column = head // H, head % H, tl.program_id(1) * BLOCK_D
    other = n if KEYS else n // (H // G)
    HERE: tl.constexpr = BLOCK_D if WIDTH % BLOCK_D == 0 else WIDTH
    x += b * x_b + other * x_h + column
    if HAS_XT:
        xt += b * xt_b + other * xt_h + column
    total_t = tl.zeros((BLOCK_R, BLOCK_D), tl.float32)
    if FIRST:
        total = tl.zeros((BLOCK_R, BLOCK_D), tl.float32)
    r = tl.arange(0, BLOCK_R)
    step = tl.arange(0, BLOCK_L)
    if KEYS:
        base = (head * rows - row0) * columns + offset
        where = step[:, None] * columns + r[None, :]
    else:
        base = (head * rows + offset) * columns
        where = r[:, None] * columns + step[None, :]
    for m in range(low, high, BLOCK_L):
        at = base + (tl.cast(m, tl.int64) * columns if KEYS else m)
        if FIRST or HAS_XT:
            a = tl.load(tiles + at + where)
            if KEYS:
                a = tl.trans(a)
        values = load_rows(x, m, x_s, reach, HERE, BLOCK_L, BLOCK_D)
        if FIRST:
            total = tl.dot(a, values, total, input_precision=PRECISION)
        if HAS_TILES_T:
            a_t = tl.load(tiles_t + at + where)
            if KEYS:
                a_t = tl.trans(a_t)
            total_t = tl.dot(a_t, values, total_t, input_precision=PRECISION)
        if HAS_XT:
            values_t = load_rows(xt, m, xt_s, reach, HERE, BLOCK_L, BLOCK_D)
            total_t = tl.dot(a, values_t, total_t, input_precision=PRECISION)
    result = head * length * WIDTH + column
    if FIRST:
        total *= scale
        if ADD:
            total += load_rows(out + result, start, WIDTH, length, HERE, BLOCK_R, BLOCK_D)
        store_rows(out + result, start, WIDTH, length, total, HERE, BLOCK_R, BLOCK_D)
    total_t *= scale
    if ADD:
        total_t += load_rows(out_t + result, start, WIDTH, length, HERE, BLOCK_R, BLOCK_D)
    store_rows(out_t + result, start, WIDTH, length, total_t, HERE, BLOCK_R, BLOCK_D)
