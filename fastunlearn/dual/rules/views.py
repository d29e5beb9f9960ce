"""Views: they and what they are views of hold one value, also after one of them is written to in place.

A view remembers what it is a view of, the function that made it, and the *version* it has seen. A write into a view
is a write into its root (scatter of the new part), which raises the root's version; a view that is used after that
is made again from the root.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..values import Dual
from .generic import apply_generic, call_function

__all__ = ["apply_view", "refreshed", "write_through"]


def _shares_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def link(source: Dual, result: Dual, make: Callable[[Tensor], Tensor]) -> None:
    """Notes that ``result`` is ``make(source)``, a view."""
    result.root = (source, make, source.version)


def apply_view(ctx: Any, func: Callable, args: tuple, kwargs: dict, apply: Callable = call_function) -> Any:
    """A function whose results may be views of its first argument."""
    source, rest = args[0], args[1:]
    results = apply(ctx, func, args, kwargs)
    if not isinstance(source, Dual):
        return results
    if isinstance(results, Dual):
        if results is not source and _shares_memory(source.primal, results.primal):
            link(source, results, lambda t: func(t, *rest, **kwargs))
    elif isinstance(results, (tuple, list)):
        for i, part in enumerate(results):
            if isinstance(part, Dual) and _shares_memory(source.primal, part.primal):
                link(source, part, lambda t, i=i: func(t, *rest, **kwargs)[i])
    return results


def refreshed(ctx: Any, view: Dual) -> Dual:
    """``view``, made again from its root where that has been written to since."""
    source, make, seen = view.root
    if source.root is not None:
        refreshed(ctx, source)
    if source.version != seen:
        new = call_function(ctx, make, (source,), {})
        view.primal, view.tangent, view.slot = new.primal, new.tangent, new.slot
        view.root = (source, make, source.version)
        view.version += 1
    return view


def write_through(ctx: Any, target: Dual, value: Dual) -> None:
    """``target`` holds ``value`` from now on, and so does all that it is a view of."""
    if target.root is not None:
        source, make, _ = target.root

        def scatter(tensors: list[Tensor]) -> list[Tensor]:
            whole = tensors[0].clone()
            make(whole).copy_(tensors[1])
            return [whole]

        whole = apply_generic(ctx, scatter, [source, value])[0]
        write_through(ctx, source, whole)
        target.root = (source, make, source.version)
    target.primal, target.tangent, target.slot = value.primal, value.tangent, value.slot
    target.version += 1
