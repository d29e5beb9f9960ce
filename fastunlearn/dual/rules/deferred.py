"""Values that are put off: what is asked of them decides how they are computed.

An activation waits for the product that follows it in a gated MLP, ``act(gate) * up``: one kernel makes both. The
output layer waits for the cross-entropy, and that for the end of the forward pass: then one sweep over the
vocabulary gives the losses, their tangents, and the adjoints of the hidden states and of the output layer, and the
logits are never whole. Whatever else is asked of such a value computes it first (``force``).
"""

from __future__ import annotations

from typing import Any, Protocol

from ..values import Dual

__all__ = ["ASKING", "Pending", "accepting", "defer"]

#: Names of functions that a value may meet without being computed.
ASKING = frozenset(
    ("mul", "__mul__", "__rmul__", "div", "true_divide", "__truediv__", "__getitem__", "view", "reshape", "flatten")
    + ("to", "float", "contiguous", "tanh", "cross_entropy")
)


class Pending(Protocol):
    """How a value that was put off is computed."""

    def copied(self) -> Dual:
        """The same value as another object, still to be computed."""

    def force(self, ctx: Any) -> Dual:
        """The value."""

    def met(self, ctx: Any, name: str, args: tuple, kwargs: dict) -> Any:
        """The result of function ``name`` without computing the value, or None where that cannot be."""


def defer(shape: Any, dtype: Any, device: Any, pending: Pending, strides: Any = None) -> Dual:
    """A value to be computed later; ``strides``: None for contiguous."""
    return Dual.deferred(shape, dtype, device, pending, strides)


def accepting(name: str, rule: Any) -> Any:
    """``rule`` of a function that values which were put off may meet."""

    def accepts(ctx: Any, func: Any, args: tuple, kwargs: dict) -> Any:
        for value in (*args[:2], kwargs.get("input")):
            if type(value) is Dual and value.pending is not None:
                result = value.pending.met(ctx, name, args, kwargs)
                if result is not None:
                    return result
        return rule(ctx, func, ctx.lookup(args, True), ctx.lookup(kwargs, True))

    return accepts
