"""Binding of the streaming kernel (csrc/cpu/low_rank_apply.cpp)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.ops._dispatch import cpu_isa, extension

__all__ = ["STORED", "apply"]

STORED = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}


def apply(name: str, g: Tensor, scales: Tensor | None, x: Tensor, width: int, isa: str | None = None) -> Tensor:
    """``name`` "low_rank_dot" or "low_rank_combine"; x (k, blocks, .) float32; the result's last axis is ``width``."""
    g, x = g.resolve_neg(), x.resolve_neg().contiguous()  # a sign that is put off must be in memory
    out = torch.empty(x.shape[0], x.shape[1], width, dtype=torch.float32)
    sizes = [g.shape[0], g.shape[1], g.shape[2], x.shape[0]]
    kernel = getattr(extension("cpu"), name)
    kernel(
        isa or cpu_isa(), STORED[g.dtype], g.data_ptr(), 0 if scales is None else scales.data_ptr(), sizes,
        x.data_ptr(), out.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return out
