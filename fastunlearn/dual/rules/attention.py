"""Scaled dot-product attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops import attention as op

from ..values import Dual
from .generic import call_function

__all__ = ["attention", "unfused"]

_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


def unfused(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """The generic rule on torch's unfused attention, the only one of its backends that has all derivatives."""

    def function(*a: Any, **k: Any) -> Any:
        with sdpa_kernel(SDPBackend.MATH):
            return func(*a, **k)

    function.__name__ = func.__name__
    return call_function(ctx, function, args, kwargs)


def attention(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``F.scaled_dot_product_attention``."""
    given = {**dict(zip(_NAMES, args, strict=False)), **kwargs}
    q, k, v, mask = given["query"], given["key"], given["value"], given.get("attn_mask")
    if given.get("dropout_p", 0.0) > 0.0:
        raise InvalidInputError("model: attention drops out at random (dropout_p > 0), so there is no Hessian: eval()")
    grouped = q.ndim == 4 and k.shape[1] != q.shape[1]
    alike = q.dtype == k.dtype == v.dtype
    known = q.ndim == k.ndim == v.ndim == 4 and q.shape[0] == k.shape[0] == v.shape[0] and alike
    if not known or isinstance(mask, Dual) or k.shape[1] != v.shape[1] or (grouped and not given.get("enable_gqa")):
        return unfused(ctx, func, args, kwargs)
    scale = given.get("scale")
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    if mask is not None and mask.dtype != torch.bool and mask.dtype != q.dtype:
        mask = mask.to(q.dtype)
    spec = op.AttentionSpec(scale, causal=bool(given.get("is_causal")), mask=mask)
    return dual_attention(ctx, q, k, v, spec)


def _heads_inside(o: Tensor) -> Tensor:
    """``o`` (..., H, S, E) laid out as (..., S, H, E): what every model makes of it next, so that one copy is kept."""
    return o.transpose(-3, -2).contiguous().transpose(-3, -2)


def dual_attention(ctx: Any, q: Any, k: Any, v: Any, spec: op.AttentionSpec) -> Dual:
    """Attention of q (B, H, S, D), k (B, G, T, D), v (B, G, T, E); at least one is a Dual."""
    values = (q, k, v)
    primals = tuple(x.primal if isinstance(x, Dual) else x for x in values)
    tangents = tuple(x.tangent if isinstance(x, Dual) else None for x in values)
    ot = None
    if all(t is None for t in tangents):
        o, stats = op.forward(*primals, spec)
    else:
        o, ot, stats = op.dual_forward(*primals, *tangents, spec)
        ot = _heads_inside(ot)
    o = _heads_inside(o)

    def backward(g: Tensor | None, h: Tensor | None) -> None:
        if g is None:
            gs = (None, None, None)
            hs = op.backward(*primals, o, stats, h, spec)
        else:
            found = op.dual_backward(*primals, *tangents, o, ot, stats, g, h, spec)
            gs, hs = found[:3], found[3:]
        for x, gx, hx in zip(values, gs, hs, strict=True):
            if isinstance(x, Dual):
                x.slot.add(gx, hx, fresh=True)

    return ctx.record(o, ot, backward)
