"""The weighted weight gradient in plain PyTorch: this file defines the right answer."""

from __future__ import annotations

from torch import Tensor


def weighted_gradient(x: Tensor, g: Tensor, weights: Tensor | None, out: Tensor) -> Tensor:
    scaled = g.to(out.dtype) if weights is None else g.to(out.dtype) * weights.to(out.dtype)[:, None]
    return out.addmm_(scaled.mT, x.to(out.dtype))
