"""The dual pass of a linear layer on a GPU; meaning as in reference.py (float32, bfloat16, float16).

Products of the inputs' dtype are PyTorch's own (cuBLAS); all streams share one call. The weight product, which is
added to float32 accumulators, is one kernel of ops/_triton_product.py: out is read and written once, and no float32
copy of a half-precision tensor is made. In half precision the second term of yt and hx is added to a rounded first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.ops._triton_product import pair_product

__all__ = ["bias_product", "dual_backward", "dual_forward", "weight_product"]


def _shared(streams: Tensor, matrix: Tensor) -> Tensor:
    """(K, N, a) @ (a, b): one product of K N rows."""
    return (streams.reshape(-1, streams.shape[-1]) @ matrix).unflatten(0, streams.shape[:2])


def _plus_each(total: Tensor | None, value: Tensor, matrices: Tensor) -> Tensor:
    """total (K, N, b) + value (N, a) @ matrices (K, a, b), in total's memory, which is the caller's own: as a result of
    its own PyTorch would first copy total there."""
    if total is None:
        return torch.matmul(value, matrices)
    return total.baddbmm_(value.expand(len(matrices), *value.shape), matrices)


def dual_forward(
    x: Tensor, xt: Tensor | None, weight: Tensor, weight_t: Tensor | None, bias: Tensor | None, bias_t: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    y = torch.nn.functional.linear(x, weight, bias)
    yt = None if xt is None else _shared(xt, weight.mT)
    if weight_t is not None:
        yt = _plus_each(yt, x, weight_t.mT)
    if bias_t is not None:
        each = bias_t[:, None]
        yt = each.expand(-1, x.shape[0], -1).contiguous() if yt is None else yt.add_(each)
    return y, yt


def dual_backward(
    weight: Tensor, weight_t: Tensor | None, g: Tensor | None, h: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    gx = None if g is None else g @ weight
    hx = None if h is None else _shared(h, weight)
    if g is not None and weight_t is not None:
        hx = _plus_each(hx, g, weight_t)
    return gx, hx


def weight_product(x: Tensor, xt: Tensor | None, g: Tensor | None, h: Tensor | None, out: Tensor) -> Tensor:
    pairs = [] if h is None else [(h.mT, x)]
    pairs += [] if g is None or xt is None else [(g.mT, xt)]
    second = pairs[1] if len(pairs) > 1 else None
    if out.dtype == torch.float32:
        return pair_product(pairs[0], second, out, add=True)
    out += pair_product(pairs[0], second, torch.empty(out.shape, dtype=torch.float32, device=out.device))
    return out


def bias_product(h: Tensor, out: Tensor) -> Tensor:
    out += h.sum(1, dtype=out.dtype)
    return out
