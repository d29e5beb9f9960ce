"""Products with stored gradients in plain PyTorch: this file defines the right answer."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["combine", "dot", "wide"]


def wide(g: Tensor, scales: Tensor | None) -> Tensor:
    """The stored rows (blocks, m, B) as numbers, at least float32."""
    values = g.to(torch.float64 if g.dtype == torch.float64 else torch.float32)
    return values if scales is None else values * scales[..., None]


def dot(g: Tensor, scales: Tensor | None, v: Tensor) -> Tensor:
    """(k, blocks, m) for v (k, blocks, B), block by block."""
    out = v.new_empty(v.shape[0], g.shape[0], g.shape[1])
    for b in range(g.shape[0]):
        out[:, b] = v[:, b] @ wide(g[b], None if scales is None else scales[b]).T
    return out


def combine(g: Tensor, scales: Tensor | None, w: Tensor) -> Tensor:
    """(k, blocks, B) for w (k, blocks, m), block by block."""
    out = w.new_empty(w.shape[0], g.shape[0], g.shape[2])
    for b in range(g.shape[0]):
        out[:, b] = w[:, b] @ wide(g[b], None if scales is None else scales[b])
    return out
