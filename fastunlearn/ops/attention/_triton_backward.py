"""The reverse sweep of attention by blocks of queries: their adjoints, the tiles of which others are made, or both.

_triton_backward_keys.py goes by blocks of keys; which kernels make up a sweep is said in _triton_ways.py. Derivation:
README.md of this folder.

DUAL: both streams. g is the adjoint of ot (no leading K), h that of o; the first stream is the ordinary gradient of g,
the second its tangent. Without DUAL there is one stream: g is then the adjoint of o, with the leading K.
"""

import triton
import triton.language as tl

from ._triton_scores import (
    cap_scores,
    cut_off,
    exponential,
    head_and_block,
    load_rows,
    mask_scores,
    products_in_parts,
    seen_keys,
    store_rows,
    store_tile,
)


@triton.jit
def row_products(
    o, ot, g, h, delta, delta_t,
    o_b, o_h, o_s, ot_k, ot_b, ot_h, ot_s, g_k, g_b, g_h, g_s, h_k, h_b, h_h, h_s,
    B, H, S, E: tl.constexpr, DUAL: tl.constexpr, HAS_OT: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """delta = g . o and delta_t = h . o + g . ot for every query: what the softmax's adjoint subtracts."""
    tiles = tl.cdiv(S, BLOCK_M)
    head = tl.program_id(0) // tiles
    start = tl.program_id(0) % tiles * BLOCK_M
    tangent = tl.program_id(1).to(tl.int64)
    b, n = (head // H).to(tl.int64), (head % H).to(tl.int64)
    values = load_rows(o + b * o_b + n * o_h, start, o_s, S, E, BLOCK_M, BLOCK_E).to(tl.float32)
    first = load_rows(g + tangent * g_k + b * g_b + n * g_h, start, g_s, S, E, BLOCK_M, BLOCK_E).to(tl.float32)
    row = start + tl.arange(0, BLOCK_M)
    at = (tangent * B * H + head) * S + row
    if DUAL:
        second = load_rows(h + tangent * h_k + b * h_b + n * h_h, start, h_s, S, E, BLOCK_M, BLOCK_E).to(tl.float32)
        both = second * values
        if HAS_OT:
            both += first * load_rows(
                ot + tangent * ot_k + b * ot_b + n * ot_h, start, ot_s, S, E, BLOCK_M, BLOCK_E
            ).to(tl.float32)
        tl.store(delta_t + at, tl.sum(both, 1), mask=row < S)
        if tangent == 0:
            tl.store(delta + head.to(tl.int64) * S + row, tl.sum(first * values, 1), mask=row < S)
    else:
        tl.store(delta + at, tl.sum(first * values, 1), mask=row < S)


@triton.jit
def score_adjoints(
    s, st, dp, dpt, log, rest, mean, d, dt, i, j, cut, S, T, scale, softcap, window, mask, mask_i, mask_j, slope,
    DUAL: tl.constexpr, SCORES: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    MASK: tl.constexpr, ALIBI: tl.constexpr, UNSCALED: tl.constexpr,
):  # fmt: skip
    """p, its tangent, and the adjoints of the scaled products q . k in both streams, for one tile.

    s, st: products and their tangents; dp, dpt: adjoints of p; log to dt: the queries' statistics, broadcast; cut: of
    cut_off."""
    raw, st, bend = cap_scores(s, st, softcap, SOFTCAP, SCORES)
    s = mask_scores(raw, i, j, cut, S, T, window, mask, mask_i, mask_j, slope, CAUSAL, WINDOW, MASK, ALIBI)
    log = tl.where(log == float("-inf"), float("inf"), log)  # a fully masked row: p = 0
    if UNSCALED:
        st = st * scale
        p = exponential(s, log + rest, scale, UNSCALED)
    else:  # first what is large
        p = exponential(s - log, rest, scale, UNSCALED)
    ds = p * (dp - d)
    pt = p
    dst = ds
    if DUAL:
        dst = p * (dpt - dt)
        if SCORES:
            pt = p * (st - mean)
            dst += pt * (dp - d)
    if SOFTCAP:
        if DUAL:
            dst = dst * bend
            if SCORES:
                dst -= 2 * raw / (softcap * softcap) * st * ds
        ds = ds * bend
    return p, pt, ds, dst


@triton.jit
def attention_backward_queries(
    q, k, v, qt, kt, vt, g, h, lse, lse_rest, mean_t, delta, delta_t, gq, hq, p_tiles, pt_tiles, ds_tiles, dst_tiles,
    mask, alibi, q_b, q_h, q_s, k_b, k_h, k_s, v_b, v_h, v_s,
    qt_k, qt_b, qt_h, qt_s, kt_k, kt_b, kt_h, kt_s, vt_k, vt_b, vt_h, vt_s,
    g_k, g_b, g_h, g_s, h_k, h_b, h_h, h_s, mask_b, mask_h, mask_i, mask_j,
    B, H, G, S, T, row0, rows, columns, scale, softcap, window,
    D: tl.constexpr, E: tl.constexpr, DUAL: tl.constexpr, SUM: tl.constexpr, STORE: tl.constexpr, FIRST: tl.constexpr,
    HAS_QT: tl.constexpr, HAS_KT: tl.constexpr, HAS_VT: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, MASK: tl.constexpr, ALIBI: tl.constexpr,
    BRANCH: tl.constexpr, UNSCALED: tl.constexpr, PRECISION: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """For one block of queries of [row0, row0 + rows), over all keys that it sees.

    SUM: gq = scale ds k and hq = scale (dst k + ds kt). STORE, if not 0: p, pt, ds and dst of every tile go to memory,
    for _triton_sums.py, in whole grains of STORE x STORE; FIRST: p and ds too, which all tangents share. PART, without
    SUM: how many of a head's columns are loaded at a time; 0 is all."""
    SCORES: tl.constexpr = HAS_QT or HAS_KT
    tiles = tl.cdiv(rows, BLOCK_M)
    head, number = head_and_block(tiles)
    start = row0 + (tiles - 1 - number) * BLOCK_M
    tangent = tl.program_id(1).to(tl.int64)
    b, n = (head // H).to(tl.int64), (head % H).to(tl.int64)
    group = n // (H // G)
    k += b * k_b + group * k_h
    v += b * v_b + group * v_h
    q += b * q_b + n * q_h
    g += tangent * g_k + b * g_b + n * g_h
    if DUAL:
        h += tangent * h_k + b * h_b + n * h_h
    if HAS_QT:
        qt += tangent * qt_k + b * qt_b + n * qt_h
    if PART == 0:
        x = load_rows(q, start, q_s, S, D, BLOCK_M, BLOCK_D)
        first = load_rows(g, start, g_s, S, E, BLOCK_M, BLOCK_E)
        if DUAL:
            second = load_rows(h, start, h_s, S, E, BLOCK_M, BLOCK_E)
        if HAS_QT:
            xt = load_rows(qt, start, qt_s, S, D, BLOCK_M, BLOCK_D)
    if HAS_KT:
        kt += tangent * kt_k + b * kt_b + group * kt_h
    if HAS_VT:
        vt += tangent * vt_k + b * vt_b + group * vt_h
    if MASK != 0:
        mask += b * mask_b + n * mask_h
    slope = 0.0
    if ALIBI:
        slope = tl.load(alibi + n)
    i = start + tl.arange(0, BLOCK_M)
    at = head.to(tl.int64) * S
    at_t = (tangent * B * H + head) * S
    log = tl.load(lse + at + i, mask=i < S, other=float("-inf"))[:, None]
    mean, dt = log, log
    rest = 0.0
    if lse_rest is not None:
        rest = tl.load(lse_rest + at + i, mask=i < S, other=0.0)[:, None]
    if DUAL:
        d = tl.load(delta + at + i, mask=i < S, other=0.0)[:, None]
        dt = tl.load(delta_t + at_t + i, mask=i < S, other=0.0)[:, None]
        if SCORES:
            mean = tl.load(mean_t + at_t + i, mask=i < S, other=0.0)[:, None]
    else:
        d = tl.load(delta + at_t + i, mask=i < S, other=0.0)[:, None]

    if SUM:
        sum_g = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
        if DUAL:
            sum_h = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    if STORE != 0:
        low, high = seen_keys(start // STORE * STORE, STORE, T, window, CAUSAL, WINDOW, STORE)
        high = tl.cdiv(high, STORE) * STORE
        tile = (head.to(tl.int64) * rows + start - row0) * columns
    else:
        low, high = seen_keys(start, BLOCK_M, T, window, CAUSAL, WINDOW, BLOCK_N)
    for m in range(low, high, BLOCK_N):
        if PART == 0:
            keys = load_rows(k, m, k_s, T, D, BLOCK_N, BLOCK_D)
            values = load_rows(v, m, v_s, T, E, BLOCK_N, BLOCK_E)
            s = tl.dot(x, tl.trans(keys), input_precision=PRECISION)
            dp = tl.dot(first, tl.trans(values), input_precision=PRECISION)
            st, dpt = s, dp
            if HAS_KT:
                keys_t = load_rows(kt, m, kt_s, T, D, BLOCK_N, BLOCK_D)
                st = tl.dot(x, tl.trans(keys_t), input_precision=PRECISION)
                if HAS_QT:
                    st = tl.dot(xt, tl.trans(keys), st, input_precision=PRECISION)
            elif HAS_QT:
                st = tl.dot(xt, tl.trans(keys), input_precision=PRECISION)
            if DUAL:
                dpt = tl.dot(second, tl.trans(values), input_precision=PRECISION)
                if HAS_VT:
                    values_t = load_rows(vt, m, vt_s, T, E, BLOCK_N, BLOCK_E)
                    dpt = tl.dot(first, tl.trans(values_t), dpt, input_precision=PRECISION)
        else:
            s, st = products_in_parts(
                q, qt, k, kt, start, q_s, qt_s, S, m, k_s, kt_s, T, HAS_QT, HAS_KT, PRECISION, D, BLOCK_M, BLOCK_N, PART
            )
            dp, dpt = products_in_parts(
                g, h, v, vt, start, g_s, h_s, S, m, v_s, vt_s, T, DUAL, HAS_VT, PRECISION, E, BLOCK_M, BLOCK_N, PART
            )
        if not UNSCALED:
            s *= scale
            st *= scale
        j = m + tl.arange(0, BLOCK_N)[None, :]
        cut = True
        if BRANCH:
            cut = cut_off(start, BLOCK_M, m, BLOCK_N, T, window, CAUSAL, WINDOW)
        p, pt, ds, dst = score_adjoints(
            s, st, dp, dpt, log, rest, mean, d, dt, i[:, None], j, cut, S, T, scale, softcap, window, mask, mask_i,
            mask_j, slope, DUAL, SCORES, CAUSAL, WINDOW, SOFTCAP, MASK, ALIBI, UNSCALED,
        )  # fmt: skip
        ds = ds.to(k.dtype.element_ty)
        dst = dst.to(k.dtype.element_ty)
        if STORE != 0:
            if FIRST:
                store_tile(p_tiles + tile + m, columns, p, BLOCK_M, BLOCK_N)
                store_tile(ds_tiles + tile + m, columns, ds, BLOCK_M, BLOCK_N)
            if DUAL:
                store_tile(dst_tiles + tile + m, columns, dst, BLOCK_M, BLOCK_N)
                if SCORES:
                    store_tile(pt_tiles + tile + m, columns, pt, BLOCK_M, BLOCK_N)
        if SUM:
            sum_g = tl.dot(ds, keys, sum_g, input_precision=PRECISION)
            if DUAL:
                sum_h = tl.dot(dst, keys, sum_h, input_precision=PRECISION)
                if HAS_KT:
                    sum_h = tl.dot(ds, keys_t, sum_h, input_precision=PRECISION)
    if SUM:
        if DUAL:
            if tangent == 0:
                store_rows(gq + at * D, start, D, S, sum_g * scale, D, BLOCK_M, BLOCK_D)
            store_rows(hq + at_t * D, start, D, S, sum_h * scale, D, BLOCK_M, BLOCK_D)
        else:
            store_rows(hq + at_t * D, start, D, S, sum_g * scale, D, BLOCK_M, BLOCK_D)
