"""Weights in a unit of their own, so that weighted gradients lie in float16's range."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["unit_of"]

LARGEST = 14  # float16 ends at 2^16: no w_t g_t is above 2^14, and what rounding leaves of it is far from zero


def unit_of(weights: Tensor | None, g: Tensor) -> Tensor | None:
    """A power of two (1,), float32, so that ``weights / unit * g`` fits float16; None for another dtype, and without
    weights. Made on the device: nothing waits."""
    if weights is None or g.dtype != torch.float16 or not g.numel():
        return None
    largest = weights.abs().amax() * torch.linalg.vector_norm(g, float("inf"), dtype=torch.float32)
    exponent = torch.frexp(largest).exponent.clamp(-100, 100) - LARGEST
    return torch.exp2(exponent.to(torch.float32)).view(1)
