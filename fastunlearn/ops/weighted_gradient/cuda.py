"""Binding of the CUDA kernel (csrc/cuda/weighted_gradient.cu)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.ops._dispatch import extension
from fastunlearn.ops.ghost_gram.cpu import DTYPES

LARGEST = 14  # float16 ends at 2^16: no w_t g_t is above 2^14, and what rounding leaves of it is far from zero


def _rows(value: Tensor) -> Tensor:
    return value if value.stride(1) == 1 or value.shape[1] == 1 else value.contiguous()


def _unit(weights: Tensor, g: Tensor) -> Tensor:
    """A power of two (1,), float32, so that ``weights / unit * g`` fits float16. Made on the device: nothing waits."""
    largest = weights.abs().amax() * torch.linalg.vector_norm(g, float("inf"), dtype=torch.float32)
    exponent = torch.frexp(largest).exponent.clamp(-100, 100) - LARGEST
    return torch.exp2(exponent.to(torch.float32)).view(1)


def weighted_gradient(x: Tensor, g: Tensor, weights: Tensor | None, out: Tensor) -> Tensor:
    with torch.cuda.device(x.device):
        x, g, target = _rows(x), _rows(g), _rows(out)
        weights, unit = None if weights is None else weights.contiguous(), None
        if weights is not None and g.dtype == torch.float16 and g.numel():
            unit = _unit(weights, g)
            weights = weights / unit
        extension("cuda").weighted_gradient(
            DTYPES[x.dtype], x.data_ptr(), x.stride(0), g.data_ptr(), g.stride(0),
            0 if weights is None else weights.data_ptr(), 0 if unit is None else unit.data_ptr(), target.data_ptr(),
            target.stride(0), x.shape[0], x.shape[1], g.shape[1], torch.cuda.current_stream(x.device).cuda_stream,
        )  # fmt: skip
    return out if target is out else out.copy_(target)
