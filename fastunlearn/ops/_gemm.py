"""The matrix product that the Gram spends its time in, by the faster of the libraries that PyTorch carries.

On AMD processors MKL, which is behind ``a @ b``, runs float32 at half the speed of oneDNN (docs/performance.md);
both round alike. Everything that is not float32 on the CPU goes to ``torch.mm``.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["fast", "nt"]

SMALL = 1 << 18  # multiply-adds below which the call itself costs more than the library gains


def fast(*tensors: Tensor) -> bool:
    """Whether oneDNN takes these."""
    right = all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)
    return right and torch.backends.mkldnn.is_available()


def nt(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.T`` for matrices a (n, k), b (m, k) of one dtype; any strides."""
    if a.shape[0] * a.shape[1] * b.shape[0] > SMALL and fast(a, b):
        return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return torch.mm(a, b.t())
