"""Layer and root-mean-square norms over the last axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fastunlearn.ops import norm as op

from ..values import Dual, ParameterSlot
from .generic import call_function

__all__ = ["dual_norm", "layer_norm", "rms_norm"]


def _add_parameter(slot: ParameterSlot, g: Tensor | None, h: Tensor | None) -> None:
    slot.check(g)
    if h is not None:
        slot.out.add_(h)


def dual_norm(ctx: Any, x: Any, weight: Any, bias: Any, eps: float, offset: float, centred: bool) -> Dual:
    """``xhat * (offset + weight) + bias`` over the last axis; weight and bias are parameters or constants."""
    xp, xt = (x.primal, x.tangent) if isinstance(x, Dual) else (x, None)
    wp, wt = (weight.primal, weight.tangent) if isinstance(weight, Dual) else (weight, None)
    bp, bt = (bias.primal, bias.tangent) if isinstance(bias, Dual) else (bias, None)
    width = xp.shape[-1]
    x2 = xp.reshape(-1, width)
    xt2 = None if xt is None else xt.reshape(xt.shape[0], *x2.shape)

    def recipe() -> tuple[Tensor, Tensor | None]:
        if centred:
            return op.layer_norm_dual_forward(x2, xt2, wp, wt, bp, bt, eps, offset)
        return op.rms_norm_dual_forward(x2, xt2, wp, wt, eps, offset)

    y, yt = recipe()
    slot, shape = x.slot if isinstance(x, Dual) else None, xp.shape

    def backward(g: Tensor | None, h: Tensor | None) -> None:
        g2 = None if g is None else g.reshape(-1, width)
        h2 = None if h is None else h.reshape(h.shape[0], -1, width)
        need = isinstance(weight, Dual)
        if centred:
            gx, hx, hw, hb = op.layer_norm_dual_backward(
                x2, xt2, wp, wt, g2, h2, eps, offset, need_weight=need, need_bias=isinstance(bias, Dual)
            )
        else:
            gx, hx, hw = op.rms_norm_dual_backward(x2, xt2, wp, wt, g2, h2, eps, offset, need_weight=need)
            hb = None
        if need:
            _add_parameter(weight.slot, g, hw)
        if isinstance(bias, Dual):
            _add_parameter(bias.slot, g, hb)
        if slot is not None:
            gx = None if gx is None else gx.view(shape)
            slot.add(gx, None if hx is None else hx.view(hx.shape[0], *shape), fresh=True)

    return ctx.record(y.view(shape), None if yt is None else yt.view(yt.shape[0], *shape), backward, recipe)


def _fits(x: Any, size: Any, *parameters: Any) -> bool:
    """Whether the norm is over the last axis alone, of one dtype, with parameters and constants."""
    if len(tuple(size)) != 1:
        return False
    given = [p for p in parameters if p is not None]
    plain = all(not isinstance(p, Dual) or isinstance(p.slot, ParameterSlot) for p in given)
    return plain and all(p.dtype == x.dtype for p in given)


def layer_norm(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``F.layer_norm``."""
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    x, weight, bias = given["input"], given.get("weight"), given.get("bias")
    if not _fits(x, given["normalized_shape"], weight, bias):
        return call_function(ctx, func, args, kwargs)
    return dual_norm(ctx, x, weight, bias, given.get("eps", 1e-5), 0.0, True)


def rms_norm(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``F.rms_norm``."""
    given = {**dict(zip(("input", "normalized_shape", "weight", "eps"), args, strict=False)), **kwargs}
    x, weight, eps = given["input"], given.get("weight"), given.get("eps")
    if eps is None or not _fits(x, given["normalized_shape"], weight):  # torch's default eps depends on the dtype
        return call_function(ctx, func, args, kwargs)
    return dual_norm(ctx, x, weight, None, eps, 0.0, False)
