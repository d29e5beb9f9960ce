"""The reverse sweep of attention per key block: adjoints of keys and values (see _triton_backward.py).

All tiles are transposed (keys along rows), so that the adjoints of p and s enter their products from registers.
WANT_K, WANT_V: one program has too few registers for the accumulators of both, so the halves are two launches.
WANT_Q, with WANT_K: the queries' adjoints, which this program has all factors of, are added to float32 sums by atomics.
"""

import triton
import triton.language as tl

from ._triton_backward import score_adjoints
from ._triton_scores import add_rows, cut_off, head_and_block, load_rows, seeing_queries, store_rows


@triton.jit
def attention_backward_keys(
    q, k, v, qt, kt, vt, g, h, lse, lse_rest, mean_t, delta, delta_t, sum_gq, sum_hq, gk, gv, hk, hv, mask, alibi,
    q_b, q_h, q_s, k_b, k_h, k_s, v_b, v_h, v_s,
    qt_k, qt_b, qt_h, qt_s, kt_k, kt_b, kt_h, kt_s, vt_k, vt_b, vt_h, vt_s,
    g_k, g_b, g_h, g_s, h_k, h_b, h_h, h_s, mask_b, mask_h, mask_i, mask_j,
    B, H, G, S, T, scale, softcap, window,
    D: tl.constexpr, E: tl.constexpr, DUAL: tl.constexpr,
    WANT_Q: tl.constexpr, WANT_K: tl.constexpr, WANT_V: tl.constexpr,
    HAS_QT: tl.constexpr, HAS_KT: tl.constexpr, HAS_VT: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, MASK: tl.constexpr, ALIBI: tl.constexpr,
    BRANCH: tl.constexpr, UNSCALED: tl.constexpr, PRECISION: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """gk = scale ds^T q, hk = scale (dst^T q + ds^T qt), gv = p^T g, hv = pt^T g + p^T h for one block of keys."""
    SCORES: tl.constexpr = HAS_QT or HAS_KT
    tiles = tl.cdiv(T, BLOCK_N)
    pair, number = head_and_block(tiles)  # batch and key head
    start = number * BLOCK_N  # causal: the first keys are seen by most queries
    tangent = tl.program_id(1).to(tl.int64)
    b, group = (pair // G).to(tl.int64), (pair % G).to(tl.int64)
    heads = H // G
    keys = load_rows(k + b * k_b + group * k_h, start, k_s, T, D, BLOCK_N, BLOCK_D)
    values = load_rows(v + b * v_b + group * v_h, start, v_s, T, E, BLOCK_N, BLOCK_E)
    if HAS_KT:
        keys_t = load_rows(kt + tangent * kt_k + b * kt_b + group * kt_h, start, kt_s, T, D, BLOCK_N, BLOCK_D)
    if HAS_VT:
        values_t = load_rows(vt + tangent * vt_k + b * vt_b + group * vt_h, start, vt_s, T, E, BLOCK_N, BLOCK_E)
    j = start + tl.arange(0, BLOCK_N)[:, None]
    if WANT_K:
        sum_gk = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
        if DUAL:
            sum_hk = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    if WANT_V:
        sum_gv = tl.zeros((BLOCK_N, BLOCK_E), tl.float32)
        if DUAL:
            sum_hv = tl.zeros((BLOCK_N, BLOCK_E), tl.float32)
    low, high = seeing_queries(start, BLOCK_N, S, window, CAUSAL, WINDOW, BLOCK_M)
    for one in range(0, heads):
        n = group * heads + one
        slope = 0.0
        if ALIBI:
            slope = tl.load(alibi + n)
        mask_here = mask
        if MASK != 0:
            mask_here = mask + b * mask_b + n * mask_h
        at = (b * H + n) * S
        at_t = tangent * B * H * S + at
        for m in range(low, high, BLOCK_M):
            i = m + tl.arange(0, BLOCK_M)
            x = load_rows(q + b * q_b + n * q_h, m, q_s, S, D, BLOCK_M, BLOCK_D)
            first = load_rows(g + tangent * g_k + b * g_b + n * g_h, m, g_s, S, E, BLOCK_M, BLOCK_E)
            log = tl.load(lse + at + i, mask=i < S, other=float("-inf"))[None, :]
            mean, dt = log, log
            rest = 0.0
            if lse_rest is not None:
                rest = tl.load(lse_rest + at + i, mask=i < S, other=0.0)[None, :]
            s = tl.dot(keys, tl.trans(x), input_precision=PRECISION)
            dp = tl.dot(values, tl.trans(first), input_precision=PRECISION)
            st, dpt = s, dp
            if HAS_QT:
                xt = load_rows(qt + tangent * qt_k + b * qt_b + n * qt_h, m, qt_s, S, D, BLOCK_M, BLOCK_D)
                st = tl.dot(keys, tl.trans(xt), input_precision=PRECISION)
                if HAS_KT:
                    st = tl.dot(keys_t, tl.trans(x), st, input_precision=PRECISION)
            elif HAS_KT:
                st = tl.dot(keys_t, tl.trans(x), input_precision=PRECISION)
            if not UNSCALED:
                s *= scale
                st *= scale
            if DUAL:
                second = load_rows(h + tangent * h_k + b * h_b + n * h_h, m, h_s, S, E, BLOCK_M, BLOCK_E)
                dpt = tl.dot(values, tl.trans(second), input_precision=PRECISION)
                if HAS_VT:
                    dpt = tl.dot(values_t, tl.trans(first), dpt, input_precision=PRECISION)
                d = tl.load(delta + at + i, mask=i < S, other=0.0)[None, :]
                dt = tl.load(delta_t + at_t + i, mask=i < S, other=0.0)[None, :]
                if SCORES:
                    mean = tl.load(mean_t + at_t + i, mask=i < S, other=0.0)[None, :]
            else:
                d = tl.load(delta + at_t + i, mask=i < S, other=0.0)[None, :]
            cut = True
            if BRANCH and not WANT_Q:
                cut = cut_off(m, BLOCK_M, start, BLOCK_N, T, window, CAUSAL, WINDOW)
            p, pt, ds, dst = score_adjoints(
                s, st, dp, dpt, log, rest, mean, d, dt, i[None, :], j, cut, S, T, scale, softcap, window, mask_here,
                mask_i, mask_j, slope, DUAL, SCORES, CAUSAL, WINDOW, SOFTCAP, MASK, ALIBI, UNSCALED,
            )  # fmt: skip
            if WANT_V:
                p = p.to(x.dtype)
                sum_gv = tl.dot(p, first, sum_gv, input_precision=PRECISION)
                if DUAL:
                    sum_hv = tl.dot(p, second, sum_hv, input_precision=PRECISION)
                    if SCORES:
                        sum_hv = tl.dot(pt.to(x.dtype), first, sum_hv, input_precision=PRECISION)
            if WANT_K:
                ds = ds.to(x.dtype)
                sum_gk = tl.dot(ds, x, sum_gk, input_precision=PRECISION)
                if DUAL:
                    sum_hk = tl.dot(dst.to(x.dtype), x, sum_hk, input_precision=PRECISION)
                    if HAS_QT:
                        sum_hk = tl.dot(ds, xt, sum_hk, input_precision=PRECISION)
            if WANT_Q:
                across = tl.trans(ds)
                part = tl.dot(across, keys, input_precision=PRECISION) * scale
                if DUAL:
                    if tangent == 0:
                        add_rows(sum_gq + at * D, m, D, S, part, D, BLOCK_M, BLOCK_D)
                    part = tl.dot(tl.trans(dst.to(x.dtype)), keys, input_precision=PRECISION)
                    if HAS_KT:
                        part = tl.dot(across, keys_t, part, input_precision=PRECISION)
                    part = part * scale
                add_rows(sum_hq + at_t * D, m, D, S, part, D, BLOCK_M, BLOCK_D)
    row = pair.to(tl.int64) * T
    row_t = (tangent * B * G + pair) * T
    if WANT_K:
        if DUAL:
            if tangent == 0:
                store_rows(gk + row * D, start, D, T, sum_gk * scale, D, BLOCK_N, BLOCK_D)
            store_rows(hk + row_t * D, start, D, T, sum_hk * scale, D, BLOCK_N, BLOCK_D)
        else:
            store_rows(hk + row_t * D, start, D, T, sum_gk * scale, D, BLOCK_N, BLOCK_D)
    if WANT_V:
        if DUAL:
            if tangent == 0:
                store_rows(gv + row * E, start, E, T, sum_gv, E, BLOCK_N, BLOCK_E)
            store_rows(hv + row_t * E, start, E, T, sum_hv, E, BLOCK_N, BLOCK_E)
        else:
            store_rows(hv + row_t * E, start, E, T, sum_gv, E, BLOCK_N, BLOCK_E)
