"""Float16 adjoints in the middle of float16's range while the kernels have them.

A mean loss over thousands of tokens gives adjoints near 1e-5, and a key gets a thousandth of each: the scores'
adjoints, which the kernels round to float16 for their products, would vanish (its smallest number is 6e-8). The sweep
is linear in the adjoints: they are multiplied by a power of two before it, and the results divided by it after.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["growth"]

#: What the largest adjoint becomes, at most: sums over thousands of rows must stay below 65504, float16's largest.
LARGEST = 2.0**-3


def growth(*adjoints: Tensor | None) -> Tensor | None:
    """A power of two (float32, one number, on the device: nothing waits for it); None where the dtype is not float16,
    whose range alone is so small. 1 where there is nothing to multiply, or an adjoint is infinite or NaN."""
    given = [t for t in adjoints if t is not None and t.numel()]
    if not given or given[0].dtype != torch.float16:
        return None
    largest = torch.stack([t.abs().amax() for t in given]).amax().float()
    power = torch.floor(torch.log2(LARGEST / largest)).clamp(max=15)  # the factor is rounded to float16 as well
    return torch.where(torch.isfinite(largest) & (largest > 0), torch.exp2(power), 1.0)
