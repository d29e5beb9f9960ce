"""A linear layer's dual pass in plain PyTorch: this file defines the right answer (README.md has the derivation).

Everything is computed and summed in float32 (float64 for float64) and rounded once, to the dtype of the inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["accumulator", "bias_product", "dual_backward", "dual_forward", "weight_product"]


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums are kept in: float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _product(a: Tensor | None, b: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """``a @ b`` in ``dtype``; None, which means zero, where a factor is None."""
    return None if a is None or b is None else a.to(dtype) @ b.to(dtype)


def _total(terms: list[Tensor | None]) -> Tensor | None:
    """The sum of the terms that are there; None where none is."""
    there = [term for term in terms if term is not None]
    return sum(there[1:], there[0]) if there else None


def dual_forward(
    x: Tensor, xt: Tensor | None, weight: Tensor, weight_t: Tensor | None, bias: Tensor | None, bias_t: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """y = x W^T + b and yt = xt W^T + x Wt^T + bt."""
    wide = accumulator(x.dtype)
    y = _total([_product(x, weight.mT, wide), None if bias is None else bias.to(wide)])
    yt = _total(
        [
            _product(xt, weight.mT, wide),
            None if weight_t is None else _product(x, weight_t.mT, wide),
            None if bias_t is None else bias_t.to(wide)[:, None].expand(-1, x.shape[0], -1),
        ]
    )
    return y.to(x.dtype), None if yt is None else yt.to(x.dtype, memory_format=torch.contiguous_format)


def dual_backward(
    weight: Tensor, weight_t: Tensor | None, g: Tensor | None, h: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """gx = g W and hx = h W + g Wt."""
    wide = accumulator(weight.dtype)
    gx = _product(g, weight, wide)
    hx = _total([_product(h, weight, wide), _product(g, weight_t, wide)])
    return tuple(None if one is None else one.to(weight.dtype) for one in (gx, hx))


def weight_product(x: Tensor, xt: Tensor | None, g: Tensor | None, h: Tensor | None, out: Tensor) -> Tensor:
    """out += h^T x + g^T xt, in the dtype of ``out``."""
    for adjoint, value in ((h, x), (g, xt)):
        if adjoint is not None and value is not None:
            out += _product(adjoint.mT, value, out.dtype)
    return out


def bias_product(h: Tensor, out: Tensor) -> Tensor:
    """out += the sum of h over its rows."""
    out += h.to(out.dtype).sum(1)
    return out
