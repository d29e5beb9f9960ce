"""Rotary position embedding by a Triton kernel (float32, bfloat16, float16); meaning as in reference.py.

    y_e = x_e cos_e + sign_e x_p sin_e,   p the partner of channel e, sign_e = -1 for the first of a pair, else 1;
    transposed: x_e cos_e - sign_e x_p sin_p.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastunlearn.ops._triton import Tile, interpreted, launch, next_power_of_2, with_device

__all__ = ["apply"]


@triton.jit
def rotate(
    x, cos, sin, y, x_a, x_b, x_h, x_s, cos_b, cos_s, sin_b, sin_s, B, H, S, D, R,
    INTERLEAVED: tl.constexpr, INVERSE: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """x (A, B, H, S, D) by its strides, y contiguous; one program makes BLOCK_S positions of one head."""
    blocks = tl.cdiv(S, BLOCK_S)
    head = tl.program_id(0) // blocks
    s = tl.program_id(0) % blocks * BLOCK_S + tl.arange(0, BLOCK_S)
    a, b, h = (head // (B * H)).to(tl.int64), (head // H % B).to(tl.int64), (head % H).to(tl.int64)
    e = tl.arange(0, BLOCK_D)
    turns = e < R
    if INTERLEAVED:
        partner, sign = e ^ 1, tl.where(e % 2 == 0, -1.0, 1.0)
    else:
        partner, sign = tl.where(e < R // 2, e + R // 2, e - R // 2), tl.where(e < R // 2, -1.0, 1.0)
    here = (s < S)[:, None]
    s = s.to(tl.int64)[:, None]
    base = x + a * x_a + b * x_b + h * x_h
    value = tl.load(base + s * x_s + e[None, :], mask=here & (e < D)[None, :], other=0.0)
    rotated = here & turns[None, :]
    other = tl.load(base + s * x_s + partner[None, :], mask=rotated, other=0.0).to(tl.float32)
    c = tl.load(cos + b * cos_b + s * cos_s + e[None, :], mask=rotated, other=0.0).to(tl.float32)
    if INVERSE:
        t = -tl.load(sin + b * sin_b + s * sin_s + partner[None, :], mask=rotated, other=0.0).to(tl.float32)
    else:
        t = tl.load(sin + b * sin_b + s * sin_s + e[None, :], mask=rotated, other=0.0).to(tl.float32)
    turned = (value.to(tl.float32) * c + sign[None, :] * other * t).to(y.dtype.element_ty)
    result = tl.where(turns[None, :], turned, value)
    tl.store(y + (head.to(tl.int64) * S + s) * D + e[None, :], result, mask=here & (e < D)[None, :])


def _table(value: Tensor, x: Tensor) -> tuple[Tensor, int, int]:
    """cos or sin with its strides along batch (0 where it has none) and position."""
    value = value if value.stride(-1) == 1 else value.contiguous()
    return value, value.stride(0) if value.dim() == 3 and value.shape[0] > 1 else 0, value.stride(-2)


def apply(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, inverse: bool) -> Tensor:
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel() == 0:
        return y
    # Axes (A, B, H, S, D): with tables per batch, B is the axis that they meet.
    heads = x.shape[-3] if x.dim() > 3 else 1
    batch = (x.shape[-4] if x.dim() > 3 else x.shape[0]) if cos.dim() == 3 else 1
    # One table everywhere: all leading axes are one.
    view = x.reshape(*((1, 1, -1) if cos.dim() == 2 else (-1, batch, heads)), *x.shape[-2:])
    view = view if view.stride(-1) == 1 else view.contiguous()
    outer, batch, heads, length, width = view.shape
    block = next_power_of_2(width)
    tile = Tile({"BLOCK_S": 32 if interpreted() else max(1, 2048 // block), "BLOCK_D": block})
    (cos, cos_b, cos_s), (sin, sin_b, sin_s) = _table(cos, x), _table(sin, x)
    arguments = {
        "x": view, "cos": cos, "sin": sin, "y": y,
        **dict(zip(("x_a", "x_b", "x_h", "x_s"), view.stride()[:4], strict=True)),
        "cos_b": cos_b, "cos_s": cos_s, "sin_b": sin_b, "sin_s": sin_s, "B": batch, "H": heads, "S": length,
        "D": width, "R": cos.shape[-1], "INTERLEAVED": interleaved, "INVERSE": inverse,
    }  # fmt: skip
    with with_device(x):
        launch(rotate, lambda t: (outer * batch * heads * -(-length // t.sizes["BLOCK_S"]),), (tile,), arguments)
    return y
