"""Functions that write into their first argument: done out of place, and the name bound to the new value.

``y = x.clone(); func(y, ...)`` is an ordinary function of x and the others, so the rule of every in-place function
is the generic rule of that. The object that the model's code holds, a Dual or a plain tensor, gets the new value as
its *shadow*: the mode puts that value in the object's place from then on. Views stay one with their root
(:mod:`.views`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..values import Dual, UnsupportedOperationError
from . import elementwise, views
from .generic import call_function

__all__ = ["OPERATORS", "apply_in_place", "apply_inplace_flag", "apply_unseen", "writes"]

OPERATORS = frozenset(
    ("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__imod__", "__ipow__")
)
_OUT_OF_PLACE = {
    "add_": (torch.add, elementwise.add),
    "__iadd__": (torch.add, elementwise.add),
    "sub_": (torch.sub, elementwise.subtract),
    "__isub__": (torch.sub, elementwise.subtract),
    "mul_": (torch.mul, elementwise.multiply),
    "__imul__": (torch.mul, elementwise.multiply),
    "div_": (torch.div, elementwise.divide),
    "__itruediv__": (torch.div, elementwise.divide),
}


def _overwrite(ctx: Any, target: Tensor, value: Dual) -> None:
    """Makes ``target`` (a Dual, or a plain tensor of the model's code) hold ``value`` from now on."""
    if value.primal.shape != target.shape:
        raise UnsupportedOperationError("model: an in-place function that changes a shape cannot be followed")
    if not isinstance(target, Dual):
        _refuse_shared(ctx, target, value)
    views.write_through(ctx, target, value)


def _refuse_shared(ctx: Any, target: Tensor, value: Dual) -> None:
    """A constant that becomes variable: nothing else may look at its memory, except through ``target._base``."""
    base = target._base
    storage = target.untyped_storage()
    users = torch._C._storage_Use_Count(storage._cdata) - 1  # one is the Python object made here
    if users > (1 if base is None else 2) or isinstance(target, torch.nn.Parameter):
        raise UnsupportedOperationError(
            "model: a value that depends on the parameters is written in place into a constant tensor that others "
            "see too: build that tensor by torch.cat, torch.stack or torch.where instead"
        )
    if base is None:
        return
    size, stride, offset = target.size(), target.stride(), target.storage_offset()
    streams = None if value.tangent is None else value.tangent.shape[0]
    for holder, root in ((base, None), (target, (base, lambda t: t.as_strided(size, stride, offset), 1))):
        zero = None if streams is None else holder.new_zeros((streams, *holder.shape))
        constant = Dual(holder.clone(), zero, ctx.new_slot())
        constant.owner = holder
        ctx.shadows[id(holder)] = views.Shadow(holder, constant, 1, root)


def writes(name: str) -> bool:
    """Whether a function of this name writes into its first argument."""
    return name in OPERATORS or (name.endswith("_") and not name.endswith("__"))


def apply_unseen(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``func(x, ...)`` that writes into x inside ``torch.no_grad()``: x has another value, and the derivatives that it
    had, as autograd does not see the write."""
    target = args[0]
    primal = target.primal.clone()
    plain, options = tree_map(_primal, (args[1:], kwargs))
    with torch._C.DisableTorchFunction():
        func(primal, *plain, **options)
    _overwrite(ctx, target, ctx.record(primal, target.tangent, target.slot.add))
    return views._owner(target)


def _primal(value: Any) -> Any:
    return value.primal if isinstance(value, Dual) else value


def apply_in_place(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``func(x, ...)`` that writes into x and returns it."""
    target, rest = args[0], args[1:]
    name = getattr(func, "__name__", "")
    known = _OUT_OF_PLACE.get(name)
    if known is not None and not kwargs and len(rest) == 1:
        value = known[1](ctx, known[0], args, kwargs)
        if value.primal.dtype != target.dtype:
            value = call_function(ctx, lambda t: t.to(target.dtype), (value,), {})
    else:

        def out_of_place(x: Tensor, *others: Any, **options: Any) -> Tensor:
            y = x.clone()
            func(y, *others, **options)
            return y

        out_of_place.__name__ = name
        value = call_function(ctx, out_of_place, (target, *rest), kwargs)
    if not isinstance(value, Dual):  # something constant was written over all of it
        if not isinstance(target, Dual):
            return func(target, *rest, **kwargs)
        tangent = None if target.tangent is None else torch.zeros_like(target.tangent)
        value = Dual(value, tangent, ctx.new_slot())
    _overwrite(ctx, target, value)
    return views._owner(target)


def apply_inplace_flag(ctx: Any, rule: Callable, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``func(x, ..., inplace=True)`` of torch.nn.functional."""
    value = ctx.forced(rule(ctx, func, args, {**kwargs, "inplace": False}))
    target = args[0] if args else kwargs["input"]
    _overwrite(ctx, target, value)
    return views._owner(target)
