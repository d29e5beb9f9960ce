"""Binding of the CUDA kernels (csrc/cuda/explicit_rows.cu), one vector of each block at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.ops._dispatch import extension
from fastunlearn.ops.explicit_rows.cuda import DTYPES

__all__ = ["apply"]


def apply(name: str, g: Tensor, scales: Tensor | None, x: Tensor, width: int) -> Tensor:
    """``name`` "low_rank_dot" or "low_rank_combine"; x (k, blocks, .) float32; the result's last axis is ``width``."""
    blocks, m, columns = g.shape
    x, out = x.contiguous(), torch.empty(*x.shape[:2], width, dtype=torch.float32, device=g.device)
    scale_at = 0 if scales is None else scales.data_ptr()
    whole = -(-columns // 16) * 16  # one scale for a whole row
    view = (DTYPES[g.dtype], g.data_ptr(), g.stride(1), m, columns, scale_at, whole, blocks, g.stride(0))
    with torch.cuda.device(g.device):
        module, stream = extension("cuda"), torch.cuda.current_stream(g.device).cuda_stream
        if name == "low_rank_combine":
            for one, into in zip(x, out, strict=True):
                module.vector_times_rows(view, one.data_ptr(), into.data_ptr(), False, stream)
            return out
        scratch = x.new_empty(blocks * module.rows_times_vector_parts(view) * m)
        for one, into in zip(x, out, strict=True):
            module.rows_times_vector(view, one.data_ptr(), scratch.data_ptr(), into.data_ptr(), stream)
    return out
