"""Rotary position embedding in plain PyTorch. This file defines truth."""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.ops._dual_arguments import accumulator


def align(table: Tensor, x: Tensor) -> Tensor:
    """cos or sin, (S, R) or (B, S, R), with axes put in so that it meets x (..., [B, H,] S, D)."""
    return table.unsqueeze(1) if table.dim() == 3 and x.dim() > 3 else table


def _rotate(x: Tensor, interleaved: bool) -> Tensor:
    """(a, b) -> (-b, a) for each pair: channels i and i + R/2, or 2i and 2i + 1 with ``interleaved``."""
    if interleaved:
        return torch.stack((-x[..., 1::2], x[..., 0::2]), -1).flatten(-2)
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


def apply(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, inverse: bool) -> Tensor:
    """x cos + rotate(x) sin on the first R channels; with ``inverse`` the transpose of that linear map."""
    wide = accumulator(x.dtype)
    width = cos.shape[-1]
    head = x[..., :width].to(wide)
    cos, sin = align(cos, x).to(wide), align(sin, x).to(wide)
    turned = -_rotate(head * sin, interleaved) if inverse else _rotate(head, interleaved) * sin
    return torch.cat(((head * cos + turned).to(x.dtype), x[..., width:]), -1).contiguous()
