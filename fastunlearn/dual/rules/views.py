"""Views: they and what they are views of hold one value, also after one of them is written to in place.

The model's code holds *objects* (Duals, or plain tensors). An object that was written to has an entry in
``ctx.shadows``: its present value and a version. A view remembers the object it is a view of, the function that made
it, and the version it has seen. A write into a view is a write into its root (scatter of the new part), which raises
the root's version; a view that is used after that is made again from the root.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..values import Dual
from .generic import apply_generic, call_function

__all__ = ["Shadow", "apply_view", "current", "set_root", "viewing", "write_through"]


@dataclass
class Shadow:
    """The value that ``holder``, an object of the model's code, has by now."""

    holder: Tensor  # kept, so that its id stays its own
    value: Dual
    version: int
    root: Any = None


def _shares_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _owner(value: Tensor) -> Tensor:
    owner = getattr(value, "owner", None)
    return value if owner is None else owner


def _version(ctx: Any, holder: Tensor) -> int:
    shadow = ctx.shadows.get(id(holder))
    return 0 if shadow is None else shadow.version


def _root(ctx: Any, holder: Tensor) -> Any:
    shadow = ctx.shadows.get(id(holder))
    return getattr(holder, "root", None) if shadow is None else shadow.root


def current(ctx: Any, holder: Tensor) -> Tensor:
    """The value of an object of the model's code, after all writes to it and to what it is a view of."""
    holder = _owner(holder)
    root = _root(ctx, holder)
    if root is not None:
        source, make, seen = root
        whole = current(ctx, source)
        if _version(ctx, source) != seen:
            value = call_function(ctx, make, (whole,), {})
            _put(ctx, holder, value, (source, make, _version(ctx, source)))
    shadow = ctx.shadows.get(id(holder))
    return holder if shadow is None else shadow.value


def _put(ctx: Any, holder: Tensor, value: Dual, root: Any) -> None:
    value.owner = holder
    ctx.shadows[id(holder)] = Shadow(holder, value, _version(ctx, holder) + 1, root)


def apply_view(ctx: Any, func: Callable, args: tuple, kwargs: dict, rule: Callable = call_function) -> Any:
    """A function whose results may be views of its first argument."""
    results = rule(ctx, func, args, kwargs)
    source = args[0] if args else kwargs.get("input")
    if not isinstance(source, Dual):
        return results

    def again(t: Tensor) -> Any:
        return func(t, *args[1:], **kwargs) if args else func(**{**kwargs, "input": t})

    if isinstance(results, Dual):
        if results is not source and _shares_memory(source.primal, results.primal):
            set_root(ctx, results, source, again)
    elif isinstance(results, (tuple, list)):
        for i, part in enumerate(results):
            if isinstance(part, Dual) and _shares_memory(source.primal, part.primal):
                set_root(ctx, part, source, lambda t, i=i: again(t)[i])
    return results


def set_root(ctx: Any, view: Dual, source: Dual, make: Callable) -> None:
    """``view`` is ``make(source)`` and shares its memory."""
    owner = _owner(source)
    view.root = (owner, make, _version(ctx, owner))


def viewing(rule: Callable) -> Callable:
    """``rule``, whose results may be views of its first argument."""
    return lambda ctx, func, args, kwargs: apply_view(ctx, func, args, kwargs, rule)


def write_through(ctx: Any, target: Tensor, value: Dual) -> None:
    """``target`` (an object or its value) holds ``value`` from now on, and so does all that it is a view of."""
    holder = _owner(target)
    root = _root(ctx, holder)
    if root is not None:
        source, make, _ = root

        def scatter(tensors: list[Tensor]) -> list[Tensor]:
            whole = tensors[0].clone()
            make(whole).copy_(tensors[1])
            return [whole]

        whole = apply_generic(ctx, scatter, [ctx.forced(current(ctx, source)), value])[0]
        write_through(ctx, source, whole)
        root = (source, make, _version(ctx, source))
    _put(ctx, holder, value, root)
