"""Functions that write into their first argument: done out of place, and the name bound to the new value.

``y = x.clone(); func(y, ...)`` is an ordinary function of x and the others, so the rule of every in-place function
is the generic rule of that. Views and what they are views of stay one: see :mod:`.views`. A plain tensor that is
written to becomes the *shadow* of a Dual: the model's code goes on using the tensor, and the mode puts the Dual in
its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..values import Dual, Slot, UnsupportedOperationError
from . import views
from .generic import call_function

__all__ = ["OPERATORS", "apply_in_place", "apply_inplace_flag", "overwrite"]

OPERATORS = frozenset(
    ("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__imod__", "__ipow__")
)


def overwrite(ctx: Any, target: Tensor, value: Dual) -> None:
    """Makes ``target`` (a Dual, or a plain tensor of the model's code) hold ``value`` from now on."""
    if isinstance(target, Dual):
        if value.primal.shape != target.primal.shape:
            raise UnsupportedOperationError("model: an in-place function that changes a shape cannot be followed")
        views.write_through(ctx, target, value)
        return
    _shadow(ctx, target, value)


def _storage_users(tensor: Tensor) -> int:
    storage = tensor.untyped_storage()
    return torch._C._storage_Use_Count(storage._cdata) - 1  # one is the Python object made here


def _shadow(ctx: Any, target: Tensor, value: Dual) -> None:
    base = target._base
    users = _storage_users(target)
    if users > (1 if base is None else 2):
        raise UnsupportedOperationError(
            "model: a value that depends on the parameters is written in place into a constant tensor of which views "
            "are in use: build that tensor by torch.cat, torch.stack or torch.where instead"
        )
    if base is None:
        ctx.shadows[id(target)] = (target, value)
        return
    whole = Dual(base, None if value.tangent is None else _zeros(base, value.tangent), Slot())
    size, stride, offset = target.size(), target.stride(), target.storage_offset()

    def view(tensor: Tensor) -> Tensor:
        return tensor.as_strided(size, stride, offset)

    part = Dual(target, None if value.tangent is None else _zeros(target, value.tangent), Slot(), (whole, view, 0))
    views.write_through(ctx, part, value)
    ctx.shadows[id(base)] = (base, whole)
    ctx.shadows[id(target)] = (target, part)


def _zeros(like: Tensor, tangent: Tensor) -> Tensor:
    return like.new_zeros((tangent.shape[0], *like.shape))


def apply_in_place(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``func(x, ...)`` that writes into x and returns it."""
    target, rest = args[0], args[1:]

    def out_of_place(x: Tensor, *others: Any, **options: Any) -> Tensor:
        y = x.clone()
        func(y, *others, **options)
        return y

    value = call_function(ctx, out_of_place, (target, *rest), kwargs)
    if isinstance(value, Dual):
        overwrite(ctx, target, value)
    elif isinstance(target, Dual):  # overwritten by something constant
        primal = value
        tangent = None if target.tangent is None else _zeros(primal, target.tangent)
        overwrite(ctx, target, Dual(primal, tangent, ctx.new_slot()))
    else:
        target.copy_(value)
    return target


def apply_inplace_flag(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``func(x, ..., inplace=True)`` of torch.nn.functional."""
    value = call_function(ctx, func, args, {**kwargs, "inplace": False})
    target = args[0] if args else kwargs["input"]
    if isinstance(value, Dual):
        overwrite(ctx, target, value)
    return target
