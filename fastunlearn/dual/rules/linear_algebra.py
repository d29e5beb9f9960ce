"""Products with matrices: the linear layer in all its spellings, and products of two values.

y = x W^T + b     yt = xt W^T + x Wt^T + bt     gx = g W     hx = h W + g Wt     out_W += h^T x + g^T xt
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastunlearn.ops import linear as op

from ..values import Dual, ParameterSlot, UnsupportedOperationError
from .elementwise import aligned, shrink
from .generic import call_function

__all__ = ["addmm", "dual_linear", "linear", "matmul"]


def _parts(value: Any) -> tuple[Tensor | None, Tensor | None]:
    return (value.primal, value.tangent) if isinstance(value, Dual) else (value, None)


def _rows(x: Tensor, xt: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """x with leading axes made one, and its tangents."""
    x2 = x.reshape(-1, x.shape[-1])
    return x2, None if xt is None else xt.reshape(xt.shape[0], *x2.shape)


def _add_weight(weight: Dual, x: Tensor, xt: Tensor | None, g: Tensor | None, h: Tensor | None, turned: bool) -> None:
    """Adds the adjoints of a weight: (out, in), or (in, out) where it is ``turned``."""
    slot = weight.slot
    if isinstance(slot, ParameterSlot):
        slot.check(g)
        op.weight_product(x, xt, g, h, slot.out.transpose(1, 2) if turned else slot.out)
        return
    like = weight.primal
    gw = hw = None
    if g is not None:
        gw = x.t() @ g if turned else g.t() @ x
    if h is not None or (g is not None and xt is not None):
        count = xt.shape[0] if h is None else h.shape[0]
        hw = torch.zeros(count, *like.shape, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
        op.weight_product(x, xt, g, h, hw.transpose(1, 2) if turned else hw)
        hw = hw.to(like.dtype)
    slot.add(gw, hw, fresh=True)


def _add_bias(bias: Dual, g: Tensor | None, h: Tensor | None) -> None:
    slot = bias.slot
    if isinstance(slot, ParameterSlot):
        slot.check(g)
        if h is not None:
            op.bias_product(h, slot.out)
        return
    slot.add(None if g is None else g.sum(0), None if h is None else h.sum(1), fresh=True)


def dual_linear(ctx: Any, x: Any, weight: Any, bias: Any, turned: bool = False) -> Dual:
    """``x W^T + b``; ``turned``: the weight is (in, out), as in GPT-2's Conv1D."""
    xp, xt = _parts(x)
    wp, wt = _parts(weight)
    bp, bt = _parts(bias)
    if turned:
        wp, wt = wp.t(), None if wt is None else wt.transpose(1, 2)
    lead = xp.shape[:-1]
    x2, xt2 = flat = _rows(xp, xt)
    y, yt = op.dual_forward(x2, xt2, wp, wt, bp, bt)
    height = wp.shape[0]
    slot, shape = x.slot if isinstance(x, Dual) else None, xp.shape
    recipe = x.recipe if isinstance(x, Dual) else None
    kept = None if recipe is not None or not isinstance(weight, Dual) else flat

    def backward(g: Tensor | None, h: Tensor | None) -> None:
        g2 = None if g is None else g.reshape(-1, height)
        h2 = None if h is None else h.reshape(h.shape[0], -1, height)
        if isinstance(weight, Dual):
            x2, xt2 = _rows(*recipe()) if kept is None else kept
            _add_weight(weight, x2, xt2, g2, h2, turned)
        if isinstance(bias, Dual):
            _add_bias(bias, g2, h2)
        if slot is not None:
            gx, hx = op.dual_backward(wp, wt, g2, h2)
            slot.add(
                None if gx is None else gx.view(shape), None if hx is None else hx.view(hx.shape[0], *shape), fresh=True
            )

    return ctx.record(y.view(*lead, height), None if yt is None else yt.view(yt.shape[0], *lead, height), backward)


def linear(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``F.linear``."""
    given = {**dict(zip(("input", "weight", "bias"), args, strict=False)), **kwargs}
    if torch.is_autocast_enabled(given["input"].device.type):
        raise UnsupportedOperationError("model: it runs under torch.autocast: leave that off, or convert the weights")
    x, weight, bias = given["input"], given["weight"], given.get("bias")
    if (
        weight.ndim != 2
        or x.dtype.is_complex
        or x.dtype != weight.dtype
        or (bias is not None and bias.dtype != x.dtype)
    ):
        return call_function(ctx, func, args, kwargs)
    if ctx.is_head(weight) and _is_weight(bias):
        return ctx.defer_logits(x, weight, bias)
    return dual_linear(ctx, x, weight, bias)


def addmm(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``torch.addmm(bias, x, W)`` as GPT-2's Conv1D calls it; other uses by the generic rule."""
    if len(args) != 3 or kwargs or args[0].ndim != 1 or not _is_weight(args[2]) or args[0].dtype != args[1].dtype:
        return call_function(ctx, func, args, kwargs)
    bias, x, weight = args
    if bias.shape[0] != weight.shape[1]:
        return call_function(ctx, func, args, kwargs)
    return dual_linear(ctx, x, weight, bias, turned=True)


def _is_weight(value: Tensor) -> bool:
    return not isinstance(value, Dual) or isinstance(value.slot, ParameterSlot)


def matmul(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``a @ b`` of matrices or batches of them."""
    if (
        len(args) != 2
        or kwargs
        or args[0].dtype.is_complex
        or args[0].ndim < 2
        or args[1].ndim < 2
        or args[0].dtype != args[1].dtype
    ):
        return call_function(ctx, func, args, kwargs)
    a, b = args
    if b.ndim == 2 and _is_weight(b):
        return dual_linear(ctx, a, b, None, turned=True)
    ap, at = _parts(a)
    bp, bt = _parts(b)
    y = ap @ bp
    yt = None
    if at is not None:
        yt = aligned(at, y.ndim) @ bp
    if bt is not None:
        other = ap @ aligned(bt, y.ndim)
        yt = other if yt is None else yt.add_(other)

    def backward(g: Tensor | None, h: Tensor | None) -> None:
        if isinstance(a, Dual):
            ga = None if g is None else shrink(g @ bp.mT, ap.shape, 0)
            ha = None if h is None else h @ bp.mT
            if g is not None and bt is not None:
                curved = g @ aligned(bt, y.ndim).mT
                ha = curved if ha is None else ha.add_(curved)
            a.slot.add(ga, None if ha is None else shrink(ha, ap.shape, 1), fresh=True)
        if isinstance(b, Dual):
            gb = None if g is None else shrink(ap.mT @ g, bp.shape, 0)
            hb = None if h is None else ap.mT @ h
            if g is not None and at is not None:
                curved = aligned(at, y.ndim).mT @ g
                hb = curved if hb is None else hb.add_(curved)
            b.slot.add(gb, None if hb is None else shrink(hb, bp.shape, 1), fresh=True)

    return ctx.record(y, yt, backward)
