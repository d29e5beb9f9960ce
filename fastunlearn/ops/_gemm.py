"""The matrix products that the Gram spends its time in, by the faster of the libraries that PyTorch carries.

On AMD processors MKL, which is behind ``a @ b``, runs float32 at half the speed of oneDNN (docs/performance.md);
both round alike. Everything that is not float32 on the CPU goes to ``torch.mm``.

Sums are in float32 at least. On a GPU's matrix units factors in half precision need not be widened for that: their
products are exact in float32, and a dozen times as fast as products of float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["HALVES", "fast", "matrix_units", "nt", "rounded_nt", "wide_bmm", "wide_nt"]

HALVES = (torch.bfloat16, torch.float16)
#: Numbers of a row that are summed on the matrix units in one go. Their sums are cut, not rounded, to float32, which
#: would be seen after some hundred thousand terms.
CHUNK = 1 << 14
PARTIAL_BYTES = 1 << 28  # of such partial sums that exist at a time

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


def matrix_units(*tensors: Tensor) -> bool:
    """Whether these are factors of half precision, of one dtype, on a GPU."""
    return tensors[0].dtype in HALVES and all(t.is_cuda and t.dtype == tensors[0].dtype for t in tensors)


def _mm(a: Tensor, b: Tensor) -> Tensor:  # needs a GPU
    return torch.mm(a, b, out_dtype=torch.float32)


def _bmm(a: Tensor, b: Tensor, out: Tensor) -> Tensor:  # needs a GPU
    return torch.bmm(a, b, out_dtype=torch.float32, out=out)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def wide_nt(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.T`` in float32, or float64 for such factors."""
    if matrix_units(a, b):
        return _mm(a, b.t())
    return nt(_wide(a), _wide(b))


def wide_bmm(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """``a @ b``, batch by batch, into ``out`` of float32 or float64, whatever the dtype of the factors."""
    if matrix_units(a, b) and out.dtype == torch.float32:
        return _bmm(a, b, out)
    return torch.bmm(a.to(out.dtype), b.to(out.dtype), out=out)


def rounded_nt(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.T`` (n, m) in float32 for long rows in half precision, a (n, k), b (m, k): partial sums of CHUNK terms
    are made on the matrix units, and added in float32."""
    n, m, whole = a.shape[0], b.shape[0], a.shape[1] // CHUNK * CHUNK
    rest = whole < a.shape[1]
    total = wide_nt(a[:, whole:], b[:, whole:]) if rest else torch.zeros(n, m, dtype=torch.float32, device=a.device)
    step = max(1, PARTIAL_BYTES // max(1, 4 * n * m)) * CHUNK
    for start in range(0, whole, step):
        left, right = (side[:, start : min(start + step, whole)].unflatten(1, (-1, CHUNK)) for side in (a, b))
        part = torch.empty(left.shape[1], n, m, dtype=torch.float32, device=a.device)
        total += wide_bmm(left.transpose(0, 1), right.permute(1, 2, 0), part).sum(0)
    return total
