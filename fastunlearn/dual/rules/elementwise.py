"""Sums and products element by element, with broadcasting. Tangents and h carry a leading axis K."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..values import Dual
from .generic import call_function

__all__ = ["add", "aligned", "divide", "multiply", "negative", "shrink", "subtract"]


def aligned(streams: Tensor, ndim: int) -> Tensor:
    """(K, *shape) with axes of 1 after K, so that it broadcasts against a result of ``ndim`` axes."""
    missing = ndim - streams.ndim + 1
    if missing <= 0:
        return streams
    return streams.reshape(streams.shape[0], *(1,) * missing, *streams.shape[1:])


def shrink(tensor: Tensor, shape: torch.Size, lead: int) -> Tensor:
    """Sums ``tensor`` over the axes along which ``shape`` was broadcast; ``lead`` first axes (0 or 1) stay."""
    if tensor.shape[lead:] == shape:
        return tensor
    extra = tensor.ndim - lead - len(shape)
    axes = list(range(lead, lead + extra))
    axes += [lead + extra + i for i, n in enumerate(shape) if n == 1 and tensor.shape[lead + extra + i] != 1]
    tensor = tensor.sum(axes, keepdim=True)
    return tensor.reshape((*tensor.shape[:lead], *shape))


def _tensor(value: Any) -> Any:
    return value.primal if isinstance(value, Dual) else value


def _spread(streams: Tensor, result: Tensor) -> Tensor:
    """Tangents of one argument, in the result's shape and dtype."""
    streams = aligned(streams, result.ndim)
    if streams.shape[1:] != result.shape:
        streams = streams.expand(streams.shape[0], *result.shape)
    return streams if streams.dtype == result.dtype else streams.to(result.dtype)


class _Target:
    """Where adjoints of a value go. It keeps the slot and the shape, not the value."""

    __slots__ = ("dtype", "shape", "slot")

    def __init__(self, x: Dual) -> None:
        self.slot, self.shape, self.dtype = x.slot, x.primal.shape, x.primal.dtype

    def hand(self, g: Tensor | None, h: Tensor | None, fresh: bool) -> None:
        """Adds adjoints in the shape and dtype of the result, summed where the value was broadcast."""
        self.slot.add(
            None if g is None else shrink(g, self.shape, 0).to(self.dtype),
            None if h is None else shrink(h, self.shape, 1).to(self.dtype),
            fresh,
        )


def _target(value: Any) -> _Target | None:
    return _Target(value) if isinstance(value, Dual) else None


def _sum(ctx: Any, a: Any, b: Any, sign: float) -> Dual:
    ap, bp = _tensor(a), _tensor(b)
    y = ap + bp if sign > 0 else ap - bp
    tangent = None
    at, bt = getattr(a, "tangent", None), getattr(b, "tangent", None)
    if at is not None and bt is not None:
        at, bt = aligned(at, y.ndim), aligned(bt, y.ndim)
        tangent = _spread(at + bt if sign > 0 else at - bt, y)
    elif at is not None:
        tangent = _spread(at, y)
    elif bt is not None:
        tangent = _spread(bt, y)
        tangent = tangent if sign > 0 else -tangent

    to_a, to_b = _target(a), _target(b)

    def backward(g: Tensor | None, h: Tensor | None) -> None:
        if to_a is not None:
            to_a.hand(g, h, False)
        if to_b is not None:
            if sign < 0:
                g, h = None if g is None else -g, None if h is None else -h
            to_b.hand(g, h, False)

    return ctx.record(y, tangent, backward)


def _is_plain(value: Any) -> bool:
    return isinstance(value, (float, int)) or (isinstance(value, Tensor) and not value.dtype.is_complex)


def _is_plain_pair(args: tuple, kwargs: dict) -> bool:
    """Two real arguments and no options; complex products have conjugates in their adjoints."""
    return len(args) == 2 and not kwargs and _is_plain(args[0]) and _is_plain(args[1])


def add(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``a + b``."""
    return _sum(ctx, *args, 1.0) if _is_plain_pair(args, kwargs) else call_function(ctx, func, args, kwargs)


def subtract(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``a - b``."""
    return _sum(ctx, *args, -1.0) if _is_plain_pair(args, kwargs) else call_function(ctx, func, args, kwargs)


def _scaled(ctx: Any, x: Dual, factor: Any) -> Dual:
    """``x * factor`` with a constant factor, a number or a tensor."""
    y = x.primal * factor
    tangent = None
    if x.tangent is not None:
        tangent = _spread(aligned(x.tangent, y.ndim) * factor, y)

    to_x = _Target(x)

    def backward(g: Tensor | None, h: Tensor | None) -> None:
        to_x.hand(None if g is None else g * factor, None if h is None else h * factor, True)

    return ctx.record(y, tangent, backward)


def multiply(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``a * b``."""
    if not _is_plain_pair(args, kwargs):
        return call_function(ctx, func, args, kwargs)
    a, b = args
    if not isinstance(a, Dual):
        return _scaled(ctx, b, a)
    if not isinstance(b, Dual):
        return _scaled(ctx, a, b)
    ap, bp, at, bt = a.primal, b.primal, a.tangent, b.tangent
    y = ap * bp
    tangent = None
    if at is not None:
        tangent = _spread(aligned(at, y.ndim) * bp, y)
    if bt is not None:
        other = aligned(bt, y.ndim) * ap
        tangent = _spread(other, y) if tangent is None else tangent + other

    to_a, to_b, ndim = _Target(a), _Target(b), y.ndim

    def one(to: _Target, other: Tensor, other_t: Tensor | None, g: Tensor | None, h: Tensor | None) -> None:
        hx = None if h is None else h * other
        if g is not None and other_t is not None:
            curved = aligned(other_t, ndim) * g
            hx = curved if hx is None else hx.add_(curved)
        to.hand(None if g is None else g * other, hx, True)

    def backward(g: Tensor | None, h: Tensor | None) -> None:
        one(to_a, bp, bt, g, h)
        one(to_b, ap, at, g, h)

    return ctx.record(y, tangent, backward)


def divide(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``a / b`` with constant b; a variable divisor goes to the generic rule."""
    if not _is_plain_pair(args, kwargs) or isinstance(args[1], Dual):
        return call_function(ctx, func, args, kwargs)
    x, divisor = args
    y = x.primal / divisor
    tangent = None if x.tangent is None else _spread(aligned(x.tangent, y.ndim) / divisor, y)

    to_x = _Target(x)

    def backward(g: Tensor | None, h: Tensor | None) -> None:
        to_x.hand(None if g is None else g / divisor, None if h is None else h / divisor, True)

    return ctx.record(y, tangent, backward)


def negative(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``-x``."""
    return _scaled(ctx, args[0], -1.0)
