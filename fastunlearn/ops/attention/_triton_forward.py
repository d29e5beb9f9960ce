"""Attention and its tangent in one sweep over the keys, the softmax kept online.

With p = softmax(s) along a row, st the tangent of s and c any number that is fixed per row,

    ot = sum_j p_j ((st_j - c) v_j + vt_j) - (mean - c) o,     mean = sum_j p_j st_j.

c is the row's mean of st over the first keys that it sees: it takes out what all keys share (keys of trained models
have a large common part), which would otherwise cancel between the two terms and cost digits in half precision.
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
)


@triton.jit
def attention_forward(
    q, k, v, qt, kt, vt, o, ot, lse, lse_rest, mean_t, mask, alibi,
    q_b, q_h, q_s, k_b, k_h, k_s, v_b, v_h, v_s,
    qt_k, qt_b, qt_h, qt_s, kt_k, kt_b, kt_h, kt_s, vt_k, vt_b, vt_h, vt_s,
    mask_b, mask_h, mask_i, mask_j,
    B, H, G, S, T, scale, softcap, window,
    D: tl.constexpr, E: tl.constexpr, HAS_QT: tl.constexpr, HAS_KT: tl.constexpr, HAS_VT: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, MASK: tl.constexpr, ALIBI: tl.constexpr,
    BRANCH: tl.constexpr, UNSCALED: tl.constexpr, PRECISION: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """o, ot, lse and mean_t of one block of queries. PART: how many of a head's columns are loaded at a time for the
    scores; 0 is all."""
    SCORES: tl.constexpr = HAS_QT or HAS_KT  # whether the scores have a tangent
    DUAL: tl.constexpr = SCORES or HAS_VT
    # Without windows and masks every row sees a key of the first tile, and has its centre from there.
    ONCE: tl.constexpr = BRANCH and not WINDOW and MASK == 0
    tiles = tl.cdiv(S, BLOCK_M)
    head, number = head_and_block(tiles)
    start = (tiles - 1 - number) * BLOCK_M  # causal: the longest rows first
    tangent = tl.program_id(1).to(tl.int64)
    b, h = (head // H).to(tl.int64), (head % H).to(tl.int64)
    group = h // (H // G)
    k += b * k_b + group * k_h
    v += b * v_b + group * v_h
    q += b * q_b + h * q_h
    if HAS_QT:
        qt += tangent * qt_k + b * qt_b + h * qt_h
    if PART == 0:
        x = load_rows(q, start, q_s, S, D, BLOCK_M, BLOCK_D)
        if HAS_QT:
            xt = load_rows(qt, start, qt_s, S, D, BLOCK_M, BLOCK_D)
    if HAS_KT:
        kt += tangent * kt_k + b * kt_b + group * kt_h
    if HAS_VT:
        vt += tangent * vt_k + b * vt_b + group * vt_h
    if MASK != 0:
        mask += b * mask_b + h * mask_h
    slope = 0.0
    if ALIBI:
        slope = tl.load(alibi + h)

    i = start + tl.arange(0, BLOCK_M)[:, None]
    top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    moment = tl.zeros((BLOCK_M,), tl.float32)  # sum of p (st - centre)
    centre = tl.zeros((BLOCK_M,), tl.float32)
    sum_o = tl.zeros((BLOCK_M, BLOCK_E), tl.float32)
    if DUAL:
        sum_t = tl.zeros((BLOCK_M, BLOCK_E), tl.float32)
    rate = scale if UNSCALED else 1.0  # what scores and their tangents are still to be multiplied by
    first, last = seen_keys(start, BLOCK_M, T, window, CAUSAL, WINDOW, BLOCK_N)
    for n in range(first, last, BLOCK_N):
        if PART == 0:
            y = tl.trans(load_rows(k, n, k_s, T, D, BLOCK_N, BLOCK_D))
            s = tl.dot(x, y, input_precision=PRECISION)
            st = s
            if SCORES:
                if HAS_QT:
                    st = tl.dot(xt, y, input_precision=PRECISION)
                    if HAS_KT:
                        yt = tl.trans(load_rows(kt, n, kt_s, T, D, BLOCK_N, BLOCK_D))
                        st = tl.dot(x, yt, st, input_precision=PRECISION)
                else:
                    yt = tl.trans(load_rows(kt, n, kt_s, T, D, BLOCK_N, BLOCK_D))
                    st = tl.dot(x, yt, input_precision=PRECISION)
        else:
            s, st = products_in_parts(
                q, qt, k, kt, start, q_s, qt_s, S, n, k_s, kt_s, T, HAS_QT, HAS_KT, PRECISION, D, BLOCK_M, BLOCK_N, PART
            )
        if not UNSCALED:
            s *= scale
            st *= scale
        s, st, _ = cap_scores(s, st, softcap, SOFTCAP, SCORES)
        j = n + tl.arange(0, BLOCK_N)[None, :]
        cut = True
        if BRANCH:
            cut = cut_off(start, BLOCK_M, n, BLOCK_N, T, window, CAUSAL, WINDOW)
        s = mask_scores(s, i, j, cut, S, T, window, mask, mask_i, mask_j, slope, CAUSAL, WINDOW, MASK, ALIBI)

        higher = tl.maximum(top, tl.max(s, 1))
        anchor = tl.where(higher == float("-inf"), 0.0, higher)  # a row that has seen no key yet
        shift = anchor * rate
        p = exponential(s, shift[:, None], scale, UNSCALED)
        shrink = exponential(top, shift, scale, UNSCALED)
        weight = tl.sum(p, 1)
        values = load_rows(v, n, v_s, T, E, BLOCK_N, BLOCK_E)
        if SCORES:
            if n == first or not ONCE:
                here = tl.sum(p * st, 1) * rate
                centre = tl.where((total == 0) & (weight > 0), here / tl.where(weight > 0, weight, 1.0), centre)
            moved = p * (st * rate - centre[:, None])
            moment = moment * shrink + tl.sum(moved, 1)
        total = total * shrink + weight
        top = higher
        sum_o = tl.dot(p.to(v.dtype.element_ty), values, sum_o * shrink[:, None], input_precision=PRECISION)
        if DUAL:
            sum_t = sum_t * shrink[:, None]
            if SCORES:
                sum_t = tl.dot(moved.to(v.dtype.element_ty), values, sum_t, input_precision=PRECISION)
            if HAS_VT:
                values_t = load_rows(vt, n, vt_s, T, E, BLOCK_N, BLOCK_E)
                sum_t = tl.dot(p.to(v.dtype.element_ty), values_t, sum_t, input_precision=PRECISION)

    none = total == 0  # a fully masked row: o = 0. Not so where the sum is NaN
    total = tl.where(none, 1.0, total)
    share = tl.where(none, 0.0, 1.0 / total)
    sum_o = sum_o * share[:, None]
    moment *= share
    top *= rate
    row = start + tl.arange(0, BLOCK_M)
    at = head.to(tl.int64) * S
    if tangent == 0:
        store_rows(o + at * E, start, E, S, sum_o, E, BLOCK_M, BLOCK_E)
        # lse and what rounding takes from it: a row whose scores are all huge has p only in the rest.
        log = tl.log(total)
        whole = tl.where(none, float("-inf"), top + log)
        tl.store(lse + at + row, whole, mask=row < S)
        tl.store(lse_rest + at + row, tl.where(none, 0.0, log - (whole - top)), mask=row < S)
    if DUAL:
        sum_t = sum_t * share[:, None] - moment[:, None] * sum_o
        at += tangent * B * H * S
        store_rows(ot + at * E, start, E, S, sum_t, E, BLOCK_M, BLOCK_E)
        tl.store(mean_t + at + row, centre + moment, mask=row < S)
