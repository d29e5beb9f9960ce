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
