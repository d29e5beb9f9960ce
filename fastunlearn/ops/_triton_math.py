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
