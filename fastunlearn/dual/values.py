"""What flows through a model in a dual pass: a value, its tangents, and the place where its adjoints add up.

A :class:`Dual` stands in for a tensor. It has the tensor's shape, dtype and device but no data of its own, so an
operation that no rule has seen fails loudly; it cannot drop a tangent. ``primal`` has shape ``shape``, ``tangent``
has shape ``(K, *shape)``. The adjoints are ``g``, that of the tangent (the ordinary gradient; no K axis), and
``h``, that of the primal (leading K axis).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError

__all__ = ["UNTAPED", "Dual", "ParameterSlot", "Slot", "UnsupportedOperationError"]


class UnsupportedOperationError(InvalidInputError):
    """The model does something that a dual pass cannot follow; the message names it and the mend."""


class Slot:
    """Where the adjoints of one value add up during the reverse sweep. ``needs_g``: whether g is of any use."""

    __slots__ = ("g", "h", "own_g", "own_h")
    needs_g = True

    def __init__(self) -> None:
        self.g: Tensor | None = None
        self.h: Tensor | None = None
        self.own_g = self.own_h = False

    def add(self, g: Tensor | None, h: Tensor | None, fresh: bool = False) -> None:
        """Adds adjoints. ``fresh``: the caller made these tensors and keeps no hold on them, so that later
        additions may be made in place."""
        if g is not None:
            if self.g is None:
                self.g, self.own_g = g, fresh
            elif self.own_g:
                self.g.add_(g)
            else:
                self.g, self.own_g = self.g + g, True
        if h is not None:
            if self.h is None:
                self.h, self.own_h = h, fresh
            elif self.own_h:
                self.h.add_(h)
            else:
                self.h, self.own_h = self.h + h, True

    def take(self) -> tuple[Tensor | None, Tensor | None]:
        """The adjoints so far; the slot is empty afterwards."""
        g, h = self.g, self.h
        self.g = self.h = None
        return g, h


class ParameterSlot(Slot):
    """The slot of a chosen parameter: h goes straight into the caller's accumulator ``out`` (K, *shape).

    ``forbids_g``: no ordinary gradient may arrive at a parameter (Gauss-Newton). ``is_head``: an output layer's weight.
    """

    __slots__ = ("forbids_g", "is_head", "name", "out")
    needs_g = False

    def __init__(self, name: str, out: Tensor | None, forbids_g: bool, is_head: bool) -> None:
        super().__init__()
        self.name, self.out, self.forbids_g, self.is_head = name, out, forbids_g, is_head

    def check(self, g: Tensor | None) -> None:
        """Raises InvalidInputError where an ordinary gradient arrives in a Gauss-Newton pass."""
        if g is not None and self.forbids_g:
            raise InvalidInputError(
                f"loss: parameter {self.name!r} acts on the loss by a way round F.cross_entropy (or log_softmax, "
                f"mse_loss), so the Gauss-Newton matrix is not defined: use a loss of the logits, or the Hessian"
            )

    def add(self, g: Tensor | None, h: Tensor | None, fresh: bool = False) -> None:
        self.check(g)
        if h is not None:
            self.out.add_(h)


class _Untaped(Slot):
    """The slot of values inside a block that keeps no tape: using it in the reverse sweep is an error."""

    def add(self, g: Tensor | None, h: Tensor | None, fresh: bool = False) -> None:
        raise UnsupportedOperationError(
            "model: a value computed inside a repeated block leaves it other than by the block's result; "
            'such a block cannot be recomputed: use memory="store"'
        )


UNTAPED = _Untaped()


class Dual(torch.Tensor):
    """A tensor with tangents. ``tangent`` is None only in passes without tangents (ordinary gradients).

    A Dual never changes: a write in place gives the model's object another value (see :mod:`.rules.in_place`).
    ``owner``: the model's object that has this value, None for the Dual itself. ``root``: of a view, the owner it is
    a view of, the function that makes it, and the version it has seen. ``pending``: how to compute a value that was
    put off; it has no primal before that. ``recipe()``: primal and tangent anew, cheaply, from values that are kept
    anyway; who needs them in the reverse sweep keeps the recipe instead.
    """

    primal: Tensor
    tangent: Tensor | None
    slot: Slot
    owner: Any
    root: Any
    pending: Any
    recipe: Any

    @staticmethod
    def __new__(cls, primal: Tensor, tangent: Tensor | None, slot: Slot) -> Dual:
        self = torch.Tensor._make_wrapper_subclass(
            cls, primal.size(), strides=primal.stride(), dtype=primal.dtype, device=primal.device
        )
        self.primal, self.tangent, self.slot = primal, tangent, slot
        self.owner = self.root = self.pending = self.recipe = None
        return self

    @staticmethod
    def deferred(shape: torch.Size, dtype: torch.dtype, device: torch.device, pending: Any, strides: Any) -> Dual:
        """A value that ``pending.force(ctx)`` computes when it is asked for."""
        self = torch.Tensor._make_wrapper_subclass(Dual, shape, strides=strides, dtype=dtype, device=device)
        self.owner = self.root = self.recipe = None
        self.pending = pending
        return self

    __torch_function__ = torch._C._disabled_torch_function_impl  # the mode calls the rules

    def copy(self) -> Dual:
        """The same value as another object: a write into one is none into the other."""
        if self.pending is not None:
            return self.pending.copied()
        other = Dual(self.primal, self.tangent, self.slot)
        other.recipe = self.recipe
        return other

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise UnsupportedOperationError(
            f"model: {func} works on a value of the dual pass where no rule can see it (compiled or scripted code, "
            f"or a value kept after the pass): switch compilation off, or write that part in plain PyTorch"
        )

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        if self.pending is not None:
            return f"Dual({type(self.pending).__name__})"
        streams = "no tangent" if self.tangent is None else f"{self.tangent.shape[0]} tangents"
        return f"Dual({tuple(self.primal.shape)}, {self.primal.dtype}, {streams})"
