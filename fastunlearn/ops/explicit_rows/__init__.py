"""``G v`` and ``G^T c`` for an explicit matrix G (m, P) of per-sample gradients, read once (README.md).

rows (m, P): float32, float64, bfloat16 or int8; rows any distance apart, columns contiguous. scales float32
(m, ceil(P / group)): ``G_rc = scales[r, c // group] rows[r, c]``, group a multiple of 16; needed for int8.
All raise InvalidInputError (shapes, dtypes) and BackendUnavailableError (a backend asked for that cannot run).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops._dispatch import backend_module, choose_backend

__all__ = ["matvec", "rmatvec"]

BACKENDS = ("reference", "cuda")
GROUP = 128


def matvec(
    rows: Tensor, v: Tensor, scales: Tensor | None = None, group: int = GROUP, *, backend: str | None = None
) -> Tensor:
    """``G v`` (m,) for v (P,), float32 (float64 for float64 rows)."""
    rows = _check(rows, scales, group)
    v = _vector(v, "v", rows.shape[1], rows)
    return _module(rows, backend).matvec(rows, scales, group, v)


def rmatvec(
    rows: Tensor,
    coefficients: Tensor,
    scales: Tensor | None = None,
    group: int = GROUP,
    *,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """``G^T c`` (P,) for c (m,), float32 (float64 for float64 rows); added to ``out`` where it is given."""
    rows = _check(rows, scales, group)
    coefficients = _vector(coefficients, "coefficients", rows.shape[0], rows)
    if out is None:
        out = coefficients.new_zeros(rows.shape[1])
    elif not _vector(out, "out", rows.shape[1], rows).is_contiguous():
        raise InvalidInputError("out must be contiguous; sums are added to it in place")
    return _module(rows, backend).rmatvec(rows, scales, group, coefficients, out)


def _module(rows: Tensor, backend: str | None):
    offered = BACKENDS if rows.dtype != torch.float64 else ("reference",)
    return backend_module(__package__, choose_backend(backend, rows.device, offered))


def _check(rows: Tensor, scales: Tensor | None, group: int) -> Tensor:
    if rows.dim() != 2 or rows.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.int8):
        raise InvalidInputError(
            f"rows must be 2-D float32, float64, bfloat16 or int8; they are {tuple(rows.shape)} {rows.dtype}"
        )
    if scales is None:
        if rows.dtype == torch.int8:
            raise InvalidInputError("int8 rows need scales: one float32 per row and group of columns")
        return rows.detach()
    if group < 16 or group % 16:
        raise InvalidInputError(f"group={group} must be a multiple of 16")
    shape = (rows.shape[0], -(-rows.shape[1] // group))
    if tuple(scales.shape) != shape or scales.dtype != torch.float32 or scales.device != rows.device:
        raise InvalidInputError(f"scales must be {shape} float32 on {rows.device}; they are {tuple(scales.shape)}")
    return rows.detach()


def _vector(value: Tensor, name: str, size: int, rows: Tensor) -> Tensor:
    dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
    if tuple(value.shape) != (size,) or value.dtype != dtype or value.device != rows.device:
        raise InvalidInputError(
            f"{name} must be ({size},) {dtype} on {rows.device}; it is {tuple(value.shape)} {value.dtype} "
            f"on {value.device}"
        )
    return value.detach()
