"""Binding of the CUDA kernels (csrc/cuda/explicit_rows.cu)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.ops._dispatch import extension

#: Of the rows, as the kernels number them.
DTYPES = {torch.float32: 0, torch.bfloat16: 2, torch.int8: 4}


def _view(rows: Tensor, scales: Tensor | None, group: int) -> tuple[tuple, tuple]:
    """The kernel's view of G, and what must stay alive while it runs."""
    rows = rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()
    scales = None if scales is None else scales.contiguous()
    address = 0 if scales is None else scales.data_ptr()
    view = (DTYPES[rows.dtype], rows.data_ptr(), rows.stride(0), *rows.shape, address, group, 1, 0)
    return view, (rows, scales)


def matvec(rows: Tensor, scales: Tensor | None, group: int, v: Tensor) -> Tensor:
    with torch.cuda.device(rows.device):
        view, alive = _view(rows, scales, group)
        v = v.contiguous()
        module = extension("cuda")
        scratch = v.new_empty(module.rows_times_vector_parts(view) * rows.shape[0])
        out = v.new_empty(rows.shape[0])
        stream = torch.cuda.current_stream(rows.device).cuda_stream
        module.rows_times_vector(view, v.data_ptr(), scratch.data_ptr(), out.data_ptr(), stream)
        del alive
    return out


def rmatvec(rows: Tensor, scales: Tensor | None, group: int, coefficients: Tensor, out: Tensor) -> Tensor:
    with torch.cuda.device(rows.device):
        view, alive = _view(rows, scales, group)
        coefficients = coefficients.contiguous()
        stream = torch.cuda.current_stream(rows.device).cuda_stream
        extension("cuda").vector_times_rows(view, coefficients.data_ptr(), out.data_ptr(), True, stream)
        del alive
    return out
