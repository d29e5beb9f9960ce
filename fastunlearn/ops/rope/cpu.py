"""Binding of the C++ rotary embedding (csrc/cpu/rope.cpp)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.ops._cpu_streams import DTYPES
from fastunlearn.ops._dispatch import cpu_isa, extension
from fastunlearn.ops._dual_arguments import accumulator


def apply(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, inverse: bool, isa: str | None = None) -> Tensor:
    """As :func:`.reference.apply`; ``isa`` names the instruction set (None: the best that is live)."""
    out = torch.empty(x.shape, dtype=x.dtype)
    if not x.numel():
        return out
    x = x.detach().resolve_neg()
    if x.stride(-1) != 1:
        x = x.contiguous()
    if x.dim() == 3 and cos.dim() == 3:
        x = x.unsqueeze(1)  # (B, S, D) is (B, one head, S, D)
    five = x.view(*[1] * (5 - x.dim()), *x.shape) if x.dim() <= 5 else x.reshape(-1, *x.shape[-4:])
    cos, sin = (table.detach().to(accumulator(x.dtype)).resolve_neg().contiguous() for table in (cos, sin))
    batch = cos.shape[-2] * cos.shape[-1] if cos.dim() == 3 and cos.shape[0] > 1 else 0
    extension("cpu").rope(
        isa or cpu_isa(), DTYPES[x.dtype], [*five.shape, cos.shape[-1]], five.data_ptr(), list(five.stride()[:4]),
        cos.data_ptr(), sin.data_ptr(), batch, out.data_ptr(), interleaved, inverse, torch.get_num_threads(),
    )  # fmt: skip
    return out
