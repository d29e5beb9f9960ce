"""``grouped_mm``: the experts of a mixture, each with its own rows, in one call.

With rows s to e of x belonging to expert i, and W (experts, in, out):

    y[s:e] = x[s:e] W_i                      yt = xt W_i + x Wt_i
    gx[s:e] = g W_i^T                        hx = h W_i^T + g Wt_i^T
    gw_i = x[s:e]^T g                        hw_i = x^T h + xt^T g
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..values import Dual, ParameterSlot
from .generic import call_function

__all__ = ["grouped_mm"]


def _parts(value: Any) -> tuple[Tensor, Tensor | None]:
    return (value.primal, value.tangent) if isinstance(value, Dual) else (value, None)


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _product(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else a @ b


def grouped_mm(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``grouped_mm(x (N, in), W (experts, in, out), offs=ends of the groups)``; other forms by the generic rule."""
    offs = kwargs.get("offs")
    extra = any(kwargs.get(name) is not None for name in ("bias", "out_dtype"))
    if len(args) != 2 or extra or not isinstance(offs, Tensor) or args[0].ndim != 2 or args[1].ndim != 3:
        return call_function(ctx, func, args, kwargs)
    x, weight = args
    (xp, xt), (wp, wt) = _parts(x), _parts(weight)
    ends = [0, *offs.tolist()]
    groups = [(i, slice(s, e)) for i, (s, e) in enumerate(pairwise(ends)) if e > s]
    y = xp.new_zeros(xp.shape[0], wp.shape[2])  # rows of no group (experts elsewhere) are zero
    count = next((t.shape[0] for t in (xt, wt) if t is not None), None)
    yt = None if count is None else xp.new_zeros(count, *y.shape)
    for i, rows in groups:
        y[rows] = xp[rows] @ wp[i]
        if yt is not None:
            yt[:, rows] = _plus(
                _product(None if xt is None else xt[:, rows], wp[i]),
                _product(xp[rows], None if wt is None else wt[:, i]),
            )

    def to_rows(g: Tensor | None, h: Tensor | None) -> None:
        gx = None if g is None else torch.zeros_like(xp)
        curved = None if g is None else wt
        k = next((t.shape[0] for t in (h, curved) if t is not None), None)
        hx = None if k is None else xp.new_zeros(k, *xp.shape)
        for i, rows in groups:
            if gx is not None:
                gx[rows] = g[rows] @ wp[i].mT
            if hx is not None:
                hx[:, rows] = _plus(
                    None if h is None else h[:, rows] @ wp[i].mT, None if curved is None else g[rows] @ curved[:, i].mT
                )
        x.slot.add(gx, hx, fresh=True)

    def to_weight(g: Tensor | None, h: Tensor | None) -> None:
        slot = weight.slot
        own = isinstance(slot, ParameterSlot)
        if own:
            slot.check(g)
        gw = None if g is None or own else torch.zeros_like(wp)
        curved = None if g is None else xt
        k = next((t.shape[0] for t in (h, curved) if t is not None), None)
        hw = slot.out if own else None if k is None else wp.new_zeros(k, *wp.shape)
        for i, rows in groups:
            if gw is not None:
                gw[i] = xp[rows].mT @ g[rows]
            if k is not None:
                hw[:, i] += _plus(
                    None if h is None else xp[rows].mT @ h[:, rows],
                    None if curved is None else curved[:, rows].mT @ g[rows],
                )
        if not own:
            slot.add(gw, hw, fresh=True)

    def backward(g: Tensor | None, h: Tensor | None) -> None:
        if isinstance(x, Dual):
            to_rows(g, h)
        if isinstance(weight, Dual):
            to_weight(g, h)

    return ctx.record(y, yt, backward)
