"""The weighted weight gradient as one Triton product of two pairs (warp-group products on Hopper), or by the library.

The two numbers that w_t g_t is kept as (README.md) are written to memory first, of some tokens at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.ops._triton_product import pair_product

from ._range import unit_of

SCRATCH_BYTES = 512 * 2**20  # eight for each output of a token; out is read and written once for each part


def weighted_gradient(x: Tensor, g: Tensor, weights: Tensor | None, out: Tensor) -> Tensor:
    target, unit = out.unsqueeze(0), unit_of(weights, g)
    if weights is None:
        pair_product((g.mT, x), None, target, add=True)
        return out
    weights = weights if unit is None else weights / unit
    step = max(1024, SCRATCH_BYTES // (8 * max(1, g.shape[1])))
    for rows, some, own in zip(x.split(step), g.split(step), weights.split(step), strict=True):
        product = some * own[:, None]  # float32
        high = product.to(g.dtype)
        second = None if g.dtype == torch.float32 else (product.sub_(high).to(g.dtype).mT, rows)
        pair_product((high.mT, rows), second, target, add=True, unit=unit)
    return out
