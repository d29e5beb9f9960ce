"""RMSNorm and LayerNorm by Triton kernels (float32, bfloat16, float16); meaning as in reference.py.

Sums over rows for weight and bias are made in shares of rows, then added: no atomics, the same bits on every run.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.ops._triton import Tile, interpreted, launch, next_power_of_2, with_device

from ._triton_kernels import norm_backward, norm_forward, norm_weights

__all__ = ["dual_backward", "dual_forward"]


def _rows(value: Tensor | None) -> Tensor | None:
    return value if value is None or value.stride(-1) == 1 or value.shape[-1] == 1 else value.contiguous()


def _stride(value: Tensor | None, axis: int) -> int:
    return 0 if value is None else value.stride(axis)


def _tile(width: int) -> tuple[Tile, ...]:
    block = next_power_of_2(width)
    return (Tile({"BLOCK": block}, warps=4 if block <= 2048 else 8 if block <= 8192 else 16),)


def dual_forward(
    x: Tensor, xt: Tensor | None, weight: Tensor | None, weight_t: Tensor | None, bias: Tensor | None,
    bias_t: Tensor | None, eps: float, offset: float, center: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    x, xt, weight, weight_t, bias, bias_t = (_rows(t) for t in (x, xt, weight, weight_t, bias, bias_t))
    streams = next((t.shape[0] for t in (xt, weight_t, bias_t) if t is not None), 0)
    (rows, width) = x.shape
    y = torch.empty(rows, width, dtype=x.dtype, device=x.device)
    yt = torch.empty(streams, rows, width, dtype=x.dtype, device=x.device) if streams else None
    if rows == 0:
        return y, yt
    arguments = {
        "x": x, "xt": xt, "weight": weight, "weight_t": weight_t, "bias": bias, "bias_t": bias_t, "y": y, "yt": yt,
        "x_n": x.stride(0), "xt_k": _stride(xt, 0), "xt_n": _stride(xt, 1), "weight_k": _stride(weight_t, 0),
        "bias_k": _stride(bias_t, 0), "M": rows, "N": width, "K": streams, "eps": float(eps), "offset": float(offset),
        "CENTER": center, "HAS_XT": xt is not None, "HAS_W": weight is not None, "HAS_WT": weight_t is not None,
        "HAS_B": bias is not None, "HAS_BT": bias_t is not None,
    }  # fmt: skip
    with with_device(x):
        launch(norm_forward, lambda _: (rows,), _tile(width), arguments)
    return y, yt


def dual_backward(
    x: Tensor, xt: Tensor | None, weight: Tensor | None, weight_t: Tensor | None, g: Tensor | None, h: Tensor | None,
    eps: float, offset: float, center: bool, need_weight: bool = True, need_bias: bool = True,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    x, xt, weight, weight_t, g, h = (_rows(t) for t in (x, xt, weight, weight_t, g, h))
    streams = next((t.shape[0] for t in (xt, weight_t, h) if t is not None), 0)
    rows, width = x.shape
    curved = g is not None and xt is not None
    want_w, want_b = need_weight and (h is not None or curved), need_bias and h is not None
    to_x = h is not None or curved or (g is not None and weight_t is not None)
    gx = None if g is None else torch.empty(rows, width, dtype=x.dtype, device=x.device)
    hx = torch.empty(streams, rows, width, dtype=x.dtype, device=x.device) if to_x else None
    if g is None and h is None:
        return None, None, None, None
    if rows == 0:
        zeros = x.new_zeros(streams, width)
        return gx, hx, zeros if want_w else None, zeros.clone() if want_b else None
    statistics = torch.empty(2, rows, dtype=torch.float32, device=x.device)
    moments = torch.empty(2, streams, rows, dtype=torch.float32, device=x.device) if xt is not None else None
    shared = {
        "x": x, "xt": xt, "g": g, "h": h, "rows": statistics, "moments": moments, "x_n": x.stride(0),
        "xt_k": _stride(xt, 0), "xt_n": _stride(xt, 1), "g_n": _stride(g, 0), "h_k": _stride(h, 0),
        "h_n": _stride(h, 1), "M": rows, "N": width, "K": streams, "CENTER": center, "HAS_H": h is not None,
    }  # fmt: skip
    arguments = shared | {
        "weight": weight, "weight_t": weight_t, "gx": gx, "hx": hx, "weight_k": _stride(weight_t, 0),
        "eps": float(eps), "offset": float(offset), "HAS_XT": xt is not None, "HAS_W": weight is not None,
        "HAS_WT": weight_t is not None, "HAS_G": g is not None,
    }  # fmt: skip
    with with_device(x):
        launch(norm_backward, lambda _: (rows,), _tile(width), arguments)
        if not (want_w or want_b):
            return gx, hx, None, None
        tile = Tile({"BLOCK_M": 8 if interpreted() else 16, "BLOCK_N": 64 if interpreted() else 128})
        share = max(16 if interpreted() else 64, -(-rows // 128))  # rows of one share; at most 128 shares
        shares = -(-rows // share)
        partial = [
            torch.empty(shares, streams, width, dtype=torch.float32, device=x.device) if wanted else None
            for wanted in (want_w, want_b)
        ]
        sums = {"weight_h": partial[0], "bias_h": partial[1], "SHARE": share, "CURVED": curved, "WANT_W": want_w,
                "WANT_B": want_b}  # fmt: skip
        launch(
            norm_weights, lambda t: (-(-width // t.sizes["BLOCK_N"]), shares, streams), (tile,), shared | sums
        )  # fmt: skip
    return gx, hx, *(None if one is None else one.sum(0).to(x.dtype) for one in partial)
