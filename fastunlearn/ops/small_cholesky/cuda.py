"""Binding of the CUDA kernel (csrc/cuda/small_cholesky.cu)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.ops._dispatch import extension


def solve(a: Tensor, rhs: Tensor, shift: float) -> tuple[Tensor, Tensor]:
    with torch.cuda.device(a.device):
        a, solution = a.contiguous(), rhs.clone(memory_format=torch.contiguous_format)
        info = torch.empty(a.shape[0], dtype=torch.int32, device=a.device)
        extension("cuda").small_cholesky_solve(
            1 if a.dtype == torch.float64 else 0, a.data_ptr(), solution.data_ptr(), info.data_ptr(), shift,
            a.shape[0], a.shape[1], rhs.shape[2], torch.cuda.current_stream(a.device).cuda_stream,
        )  # fmt: skip
    return solution, info
