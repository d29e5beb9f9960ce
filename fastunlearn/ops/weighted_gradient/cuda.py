"""Binding of the CUDA kernel (csrc/cuda/weighted_gradient.cu)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.ops._dispatch import extension
from fastunlearn.ops.ghost_gram.cpu import DTYPES

from ._range import unit_of


def _rows(value: Tensor) -> Tensor:
    return value if value.stride(1) == 1 or value.shape[1] == 1 else value.contiguous()


def weighted_gradient(x: Tensor, g: Tensor, weights: Tensor | None, out: Tensor) -> Tensor:
    with torch.cuda.device(x.device):
        x, g, target = _rows(x), _rows(g), _rows(out)
        unit = unit_of(weights, g)
        weights = weights if unit is None else weights / unit
        weights = None if weights is None else weights.contiguous()
        extension("cuda").weighted_gradient(
            DTYPES[x.dtype], x.data_ptr(), x.stride(0), g.data_ptr(), g.stride(0),
            0 if weights is None else weights.data_ptr(), 0 if unit is None else unit.data_ptr(), target.data_ptr(),
            target.stride(0), x.shape[0], x.shape[1], g.shape[1], torch.cuda.current_stream(x.device).cuda_stream,
        )  # fmt: skip
    return out if target is out else out.copy_(target)
