"""Binding of the C++ norms (csrc/cpu/norm.cpp); signatures as in :mod:`.reference`."""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.ops._cpu_streams import DTYPES, rows, stream
from fastunlearn.ops._dispatch import cpu_isa, extension
from fastunlearn.ops._dual_arguments import accumulator


def _wide(value: Tensor | None, dtype: torch.dtype, offset: float = 0.0) -> Tensor | None:
    """A per-channel operand in the accumulator dtype, contiguous, plus ``offset``."""
    if value is None:
        return None
    value = value.detach().to(accumulator(dtype)).resolve_neg().contiguous()
    return value + offset if offset else value


def _address(value: Tensor | None) -> int:
    return 0 if value is None else value.data_ptr()


def _count(*tangents: Tensor | None) -> int:
    return next((len(t) for t in tangents if t is not None), 0)


def dual_forward(
    x: Tensor,
    xt: Tensor | None,
    weight: Tensor | None,
    weight_t: Tensor | None,
    bias: Tensor | None,
    bias_t: Tensor | None,
    eps: float,
    offset: float,
    center: bool,
    isa: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """(y, yt); ``isa`` names the instruction set (None: the best that is live)."""
    k = _count(xt, weight_t, bias_t)
    y = torch.empty(x.shape, dtype=x.dtype)
    yt = torch.empty((k, *x.shape), dtype=x.dtype) if k else None
    channels = [_wide(weight, x.dtype, offset), *(_wide(t, x.dtype) for t in (weight_t, bias, bias_t))]
    x, xt = rows(x), rows(xt, 1)
    extension("cpu").norm_forward(
        isa or cpu_isa(), DTYPES[x.dtype], (*x.shape, k), center, eps, tuple(map(_address, channels)),
        *map(stream, (x, xt, y, yt)), torch.get_num_threads(),
    )  # fmt: skip
    return y, yt


def dual_backward(
    x: Tensor,
    xt: Tensor | None,
    weight: Tensor | None,
    weight_t: Tensor | None,
    g: Tensor | None,
    h: Tensor | None,
    eps: float,
    offset: float,
    center: bool,
    need_weight: bool = True,
    need_bias: bool = True,
    isa: str | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """(gx, hx, weight_h, bias_h), None where zero or not needed."""
    k, wide = _count(xt, weight_t, h), accumulator(x.dtype)
    bent = g is not None and xt is not None
    gx = torch.empty(x.shape, dtype=x.dtype) if g is not None else None
    moved = h is not None or bent or (g is not None and weight_t is not None)
    hx = torch.empty((k, *x.shape), dtype=x.dtype) if moved else None
    weight_h = torch.empty((k, x.shape[1]), dtype=wide) if need_weight and (h is not None or bent) else None
    bias_h = torch.empty((k, x.shape[1]), dtype=wide) if need_bias and h is not None else None
    channels = [_wide(weight, x.dtype, offset), _wide(weight_t, x.dtype), None, None]
    x, xt, g, h = rows(x), rows(xt, 1), rows(g), rows(h, 1)
    extension("cpu").norm_backward(
        isa or cpu_isa(), DTYPES[x.dtype], (*x.shape, k), center, eps, tuple(map(_address, channels)),
        *map(stream, (x, xt, g, h, gx, hx)), _address(weight_h), _address(bias_h), torch.get_num_threads(),
    )  # fmt: skip
    return gx, hx, *(None if t is None else t.to(x.dtype) for t in (weight_h, bias_h))
