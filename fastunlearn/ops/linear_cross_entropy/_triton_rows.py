"""The softmax of one row of logits, its loss, and the adjoints of the logits in both streams, in two readings.

    g_a = w phi' (p - e),   h_a = w phi' p (zt - <p, zt>) [+ w phi'' at (p - e)],   zt = phi' at

First reading: the largest logit, the sum of exponentials and <p, zt>, kept online; second: the adjoints are written.
"""

import triton
import triton.language as tl

from fastunlearn.ops._triton_math import tanh


@triton.jit
def _logits(a, bias, at, bias_t, column, inside, logit_scale, softcap,
            HAS_B: tl.constexpr, HAS_T: tl.constexpr, HAS_BT: tl.constexpr, SOFTCAP: tl.constexpr):  # fmt: skip
    """z, phi', phi'' and the tangent of a; z is -inf beyond the vocabulary."""
    value = tl.load(a + column, mask=inside, other=0.0)
    if HAS_B:
        value += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    moved = tl.zeros_like(value)
    if HAS_T:
        moved = tl.load(at + column, mask=inside, other=0.0)
    if HAS_BT:
        moved += tl.load(bias_t + column, mask=inside, other=0.0).to(tl.float32)
    value = logit_scale * value
    slope = tl.zeros_like(value) + logit_scale
    curve = tl.zeros_like(value)
    if SOFTCAP:
        bent = tanh(value / softcap)
        rest = 1 - bent * bent
        value, slope = softcap * bent, logit_scale * rest
        curve = -2 * bent * rest * logit_scale * logit_scale / softcap
    return tl.where(inside, value, float("-inf")), slope, curve, moved


@triton.jit
def loss_rows(
    a, bias, at, bias_t, labels, weights, nll, nll_t, g, h, a_n, at_k, at_n, bias_k, nll_k, g_n, h_k, h_n, V,
    logit_scale, softcap,
    HAS_B: tl.constexpr, HAS_T: tl.constexpr, HAS_BT: tl.constexpr, SOFTCAP: tl.constexpr,
    WANT_G: tl.constexpr, WANT_H: tl.constexpr, CURVED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row and one tangent per program. CURVED: the Hessian's second term; without it h is the Gauss-Newton's."""
    DUAL: tl.constexpr = HAS_T or HAS_BT
    row, k = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    a += row * a_n
    if HAS_T:
        at += k * at_k + row * at_n
    if HAS_BT:
        bias_t += k * bias_k
    label = tl.load(labels + row)
    step = tl.arange(0, BLOCK)
    # Each lane keeps its own maximum and sums; lanes meet once, at the end.
    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    total, moment = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    chosen, chosen_t = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for start in range(0, V, BLOCK):
        column = start + step
        inside = column < V
        z, slope, _, moved = _logits(
            a, bias, at, bias_t, column, inside, logit_scale, softcap, HAS_B, HAS_T, HAS_BT, SOFTCAP
        )
        higher = tl.maximum(top, z)
        anchor = tl.where(higher == float("-inf"), 0.0, higher)  # a lane beyond the vocabulary
        shrink, p = tl.exp(top - anchor), tl.exp(z - anchor)
        total = total * shrink + p
        moment = moment * shrink + p * slope * moved
        top = higher
        chosen += tl.where(column == label, z, 0.0)
        chosen_t += tl.where(column == label, slope * moved, 0.0)
    peak = tl.max(top, 0)
    shrink = tl.exp(top - peak)
    norm = tl.sum(total * shrink, 0)
    mean = tl.sum(moment * shrink, 0) / norm
    # A label that was not met (chosen is a sum over one place) is excluded by the launcher: rows are live ones.
    picked = tl.sum(tl.where(step == label % BLOCK, chosen, 0.0), 0)
    if k == 0:
        tl.store(nll + row, peak - picked + tl.log(norm))
    if DUAL:
        tl.store(nll_t + k * nll_k + row, mean - tl.sum(tl.where(step == label % BLOCK, chosen_t, 0.0), 0))
    if WANT_G or WANT_H:
        weight = tl.load(weights + row)
        for start in range(0, V, BLOCK):
            column = start + step
            inside = column < V
            z, slope, curve, moved = _logits(
                a, bias, at, bias_t, column, inside, logit_scale, softcap, HAS_B, HAS_T, HAS_BT, SOFTCAP
            )
            p = tl.exp(z - peak) / norm
            residual = weight * (p - tl.where(column == label, 1.0, 0.0))
            if WANT_G:  # noqa: SIM102 (the first is decided when compiled, the second when run)
                if k == 0:
                    tl.store(g + row * g_n + column, (residual * slope).to(g.dtype.element_ty), mask=inside)
            if WANT_H:
                second = weight * p * (slope * moved - mean) * slope
                if CURVED and SOFTCAP:
                    second += residual * curve * moved
                tl.store(h + k * h_k + row * h_n + column, second.to(h.dtype.element_ty), mask=inside)
