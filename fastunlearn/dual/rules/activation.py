"""Activations, and their fusion with the product that follows in a gated MLP: ``act(gate) * up``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastunlearn.ops import activation as op
from fastunlearn.ops import gated_mlp

from ..values import Dual
from .deferred import defer
from .generic import call_function

__all__ = ["DeferredActivation", "activate", "activation_rule"]


@dataclass
class DeferredActivation:
    """``kind(x)``, not computed yet."""

    x: Dual
    kind: str

    def copied(self) -> Dual:
        """The same value as another object."""
        return activate(self.x, self.kind)

    def force(self, ctx: Any) -> Dual:
        """The value."""
        x, kind = self.x, self.kind

        def recipe() -> tuple[Tensor, Tensor | None]:
            return op.dual_forward(x.primal, x.tangent, kind)

        def backward(g: Tensor | None, h: Tensor | None) -> None:
            x.slot.add(*op.dual_backward(x.primal, x.tangent, g, h, kind), fresh=True)

        return ctx.record(*recipe(), backward, recipe)

    def met(self, ctx: Any, name: str, args: tuple, kwargs: dict) -> Any:
        """A product with another value of the same shape."""
        if name not in ("mul", "__mul__", "__rmul__") or len(args) != 2 or kwargs:
            return None
        up = args[1] if type(args[0]) is Dual and args[0].pending is self else args[0]
        if type(up) is not Dual or up.pending is not None:
            return None
        up = ctx.lookup(up, True)
        same = up.primal.shape == self.x.primal.shape and up.primal.dtype == self.x.primal.dtype
        return _gated(ctx, self.x, up, self.kind) if same else None


def activate(x: Dual, kind: str) -> Dual:
    """``kind(x)``, computed when it is needed."""
    return defer(x.primal.shape, x.primal.dtype, x.primal.device, DeferredActivation(x, kind))


def activation_rule(kind_of: Callable[..., str | None]) -> Callable:
    """The rule of an activation function; ``kind_of`` its options gives its kind, or None for the generic rule."""

    def rule(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
        x = args[0] if args else kwargs["input"]
        options = {k: v for k, v in kwargs.items() if k not in ("input", "inplace")}
        kind = kind_of(*args[1:], **options)
        return call_function(ctx, func, args, kwargs) if kind is None else activate(x, kind)

    return rule


def _gated(ctx: Any, gate: Dual, up: Dual, kind: str) -> Dual:
    def recipe() -> tuple[Tensor, Tensor | None]:
        return gated_mlp.dual_forward(gate.primal, up.primal, gate.tangent, up.tangent, kind)

    def backward(g: Tensor | None, h: Tensor | None) -> None:
        found = gated_mlp.dual_backward(gate.primal, up.primal, gate.tangent, up.tangent, g, h, kind)
        gate.slot.add(found[0], found[2], fresh=True)
        up.slot.add(found[1], found[3], fresh=True)

    return ctx.record(*recipe(), backward, recipe)
