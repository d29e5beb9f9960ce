"""Functions inside Triton kernels that Triton itself lacks, or that its interpreter cannot run."""

import triton
import triton.language as tl


@triton.jit
def tanh(x):
    """tanh in float32. Near zero 1 - 2 / (e^2x + 1) cancels, so a series is used there (error below 2e-8)."""
    square = x * x
    series = x * (1 - square * (0.3333333333 - square * (0.1333333333 - square * 0.0539682540)))
    wide = 1 - 2 / (tl.exp(2 * x) + 1)
    return tl.where(square < 0.01, series, wide)


@triton.jit
def log1p(x):
    """log(1 + x) in float32 for 0 <= x <= 1: 2 atanh(x / (2 + x)) by its series, as 1 + x would lose a small x (error
    below 1e-7 of the result)."""
    s = x / (2 + x)
    q = s * s
    more = 0.0909090909 + q * (0.0769230769 + q * 0.0666666667)
    return 2 * s * (1 + q * (0.3333333333 + q * (0.2 + q * (0.1428571429 + q * (0.1111111111 + q * more)))))


@triton.jit
def normal(x):
    """Phi(x) and the density phi(x) of the normal distribution in float32, each with its digits far below 0 too, where
    1 + erf would leave none. erfc is the fit of csrc/cpu/simd_math.h."""
    size = tl.abs(x)
    near = tl.minimum(size, 100.0, propagate_nan=tl.PropagateNan.ALL)
    e = tl.exp(-0.5 * near * near)
    t = near * 0.7071067811865476
    inverse = 1 / (t + 2)
    s = (t - 2) * inverse
    fit = -8.613409769e-4 + s * (-5.987654241e-4 + s * (7.320375389e-5 + s * 8.432239439e-5))
    fit = -0.03644333886 + s * (-0.02150325237 + s * (0.006486903836 + s * (0.003058314322 + s * fit)))
    fit = 1.021582714 + s * (-0.6871606374 + s * (0.279471467 + s * fit))
    tail = 0.5 * e * fit * inverse
    return tl.where(x < 0, tail, 1 - tail), 0.3989422804014327 * e
