"""Functions that move elements about: linear, so tangents and adjoints go the same way as values.

The common ones are written out; every other linear function of one value is applied to the tangents as it is, and
its adjoint is torch's own vjp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..values import Dual
from .elementwise import aligned, shrink
from .generic import call_function, differentiable

__all__ = ["cast", "concatenate", "contiguous", "expand", "index", "linear_map", "reshaping", "split", "transpose"]


def linear_map(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """A function that is linear in its first argument, the only Dual among its arguments."""
    x, rest = args[0] if args else None, args[1:]
    if not isinstance(x, Dual) or any(isinstance(a, Dual) for a in rest):
        return call_function(ctx, func, args, kwargs)

    def function(tensor: Tensor) -> Any:
        return func(tensor, *rest, **kwargs)

    with torch.enable_grad():
        leaf = x.primal.detach().requires_grad_()
        y = function(leaf)
    if not isinstance(y, Tensor) or not y.requires_grad:
        return call_function(ctx, func, args, kwargs)
    tangent = None
    if x.tangent is not None:
        single = x.tangent.shape[0] == 1
        tangent = function(x.tangent[0])[None] if single else torch.func.vmap(function)(x.tangent)

    slot = x.slot

    def backward(g: Tensor | None, h: Tensor | None) -> None:
        gx = hx = None
        if g is not None:
            (gx,) = torch.autograd.grad(y, leaf, g, retain_graph=True)
        if h is not None:
            rows = [torch.autograd.grad(y, leaf, row, retain_graph=True)[0] for row in h]
            hx = rows[0][None] if len(rows) == 1 else torch.stack(rows)
        slot.add(gx, hx)

    return ctx.record(y.detach(), tangent, backward)


def reshaping(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """view, reshape, flatten, unsqueeze, squeeze, ...: the order of the elements stays."""
    x = args[0]
    if not isinstance(x, Dual) or "dtype" in kwargs or (len(args) > 1 and isinstance(args[1], torch.dtype)):
        return call_function(ctx, func, args, kwargs)
    y = func(x.primal, *args[1:], **kwargs)
    if y is x.primal:
        return x
    tangent = None if x.tangent is None else x.tangent.reshape(x.tangent.shape[0], *y.shape)
    slot, shape = x.slot, x.primal.shape

    def backward(g: Tensor | None, h: Tensor | None) -> None:
        slot.add(None if g is None else g.reshape(shape), None if h is None else h.reshape(h.shape[0], *shape))

    return ctx.record(y, tangent, backward)


def transpose(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``x.transpose(i, j)``."""
    x = args[0]
    if len(args) != 3 or kwargs or not isinstance(x, Dual):
        return linear_map(ctx, func, args, kwargs)
    n = x.primal.ndim
    i, j = (a + n if a < 0 else a for a in args[1:])

    slot = x.slot

    def backward(g: Tensor | None, h: Tensor | None) -> None:
        slot.add(None if g is None else g.transpose(i, j), None if h is None else h.transpose(i + 1, j + 1))

    tangent = None if x.tangent is None else x.tangent.transpose(i + 1, j + 1)
    return ctx.record(x.primal.transpose(i, j), tangent, backward)


def cast(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """to, float, double, type_as, ...: another dtype. Between real and complex numbers by the generic rule."""
    x = args[0]
    rest = tuple(a.primal if isinstance(a, Dual) else a for a in args[1:])
    y = func(x.primal, *rest, **kwargs) if isinstance(x, Dual) else func(x, *rest, **kwargs)
    if not isinstance(x, Dual) or not differentiable(y):
        return y
    if y is x.primal:
        return x
    if y.dtype.is_complex != x.primal.dtype.is_complex:
        return call_function(ctx, func, args, kwargs)
    slot, dtype = x.slot, x.primal.dtype
    tangent = None if x.tangent is None else x.tangent.to(y.dtype)

    def backward(g: Tensor | None, h: Tensor | None) -> None:
        slot.add(None if g is None else g.to(dtype), None if h is None else h.to(dtype))

    return ctx.record(y, tangent, backward)


def contiguous(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``x.contiguous()``."""
    x = args[0]
    if len(args) > 1 or kwargs:
        return linear_map(ctx, func, args, kwargs)
    y = x.primal.contiguous()
    if y is x.primal:
        return x
    tangent = None if x.tangent is None else x.tangent.contiguous()
    return ctx.record(y, tangent, x.slot.add)


def _is_basic(item: Any) -> bool:
    return item is None or item is Ellipsis or (type(item) is int) or isinstance(item, slice)


def index(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``x[...]``."""
    x, where = args
    items = where if isinstance(where, tuple) else (where,)
    if not isinstance(x, Dual) or not all(_is_basic(i) for i in items):
        return linear_map(ctx, func, args, kwargs)
    y = x.primal[where]
    tangent = None if x.tangent is None else x.tangent[(slice(None), *items)]
    slot, shape = x.slot, x.primal.shape

    def backward(g: Tensor | None, h: Tensor | None) -> None:
        gx = hx = None
        if g is not None:
            gx = g.new_zeros(shape)
            gx[where] = g
        if h is not None:
            hx = h.new_zeros((h.shape[0], *shape))
            hx[(slice(None), *items)] = h
        slot.add(gx, hx, fresh=True)

    return ctx.record(y, tangent, backward)


def split(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """chunk and split: parts along one axis."""
    x = args[0]
    parts = func(x.primal, *args[1:], **kwargs) if isinstance(x, Dual) else None
    dim = kwargs.get("dim", args[2] if len(args) > 2 else 0)
    if parts is None or not parts:
        return call_function(ctx, func, args, kwargs)
    n = x.primal.ndim
    dim = dim + n if dim < 0 else dim
    sizes = [p.shape[dim] for p in parts]
    count = None if x.tangent is None else x.tangent.shape[0]
    moved = [None] * len(parts) if count is None else x.tangent.split(sizes, dim + 1)
    if ctx.tape is None:
        return tuple(ctx.record(p, t, None) for p, t in zip(parts, moved, strict=True))
    slot, shapes = x.slot, [p.shape for p in parts]

    def backward(adjoints: list) -> None:
        gs, hs = [g for g, _ in adjoints], [h for _, h in adjoints]
        gx = hx = None
        if any(g is not None for g in gs):
            like = next(g for g in gs if g is not None)
            gx = torch.cat([like.new_zeros(s) if g is None else g for s, g in zip(shapes, gs, strict=True)], dim)
        if any(h is not None for h in hs):
            like = next(h for h in hs if h is not None)
            k = like.shape[0]
            hx = torch.cat(
                [like.new_zeros((k, *s)) if h is None else h for s, h in zip(shapes, hs, strict=True)], dim + 1
            )
        slot.add(gx, hx, fresh=True)

    results = tuple(Dual(p, t, ctx.new_slot()) for p, t in zip(parts, moved, strict=True))
    ctx.tape.append(tuple(r.slot for r in results), backward)
    return results


def concatenate(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``torch.cat``."""
    given = {**dict(zip(("tensors", "dim"), args, strict=False)), **kwargs}
    dim = given.get("dim", given.get("axis", 0))
    parts = list(given["tensors"])
    primals = [p.primal if isinstance(p, Dual) else p for p in parts]
    if not isinstance(dim, int) or any(p.ndim != primals[0].ndim or p.dtype != primals[0].dtype for p in primals):
        return call_function(ctx, func, args, kwargs)
    dim = dim + primals[0].ndim if dim < 0 else dim
    sizes = [p.shape[dim] for p in primals]
    duals = [p for p in parts if isinstance(p, Dual) and p.tangent is not None]
    tangent = None
    if duals:
        k = duals[0].tangent.shape[0]
        moved = [
            p.tangent if isinstance(p, Dual) and p.tangent is not None else q.new_zeros((k, *q.shape))
            for p, q in zip(parts, primals, strict=True)
        ]
        tangent = torch.cat(moved, dim + 1)

    slots = [p.slot if isinstance(p, Dual) else None for p in parts]

    def backward(g: Tensor | None, h: Tensor | None) -> None:
        gs = [None] * len(slots) if g is None else g.split(sizes, dim)
        hs = [None] * len(slots) if h is None else h.split(sizes, dim + 1)
        for slot, gp, hp in zip(slots, gs, hs, strict=True):
            if slot is not None:
                slot.add(gp, hp)

    return ctx.record(torch.cat(primals, dim), tangent, backward)


def expand(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``x.expand(...)``."""
    x = args[0]
    if kwargs or any(isinstance(a, Tensor) for a in args[1:]):
        return linear_map(ctx, func, args, kwargs)
    y = x.primal.expand(*args[1:])
    slot, shape = x.slot, x.primal.shape
    tangent = None
    if x.tangent is not None:
        tangent = aligned(x.tangent, y.ndim).expand(x.tangent.shape[0], *y.shape)

    def backward(g: Tensor | None, h: Tensor | None) -> None:
        slot.add(None if g is None else shrink(g, shape, 0), None if h is None else shrink(h, shape, 1))

    return ctx.record(y, tangent, backward)
