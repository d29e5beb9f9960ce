"""The function mode that sees every torch function of the model's forward, and sends it to its rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastunlearn.errors import InvalidInputError

from .rules import find_rule
from .rules.views import refreshed
from .tape import Tape
from .values import UNTAPED, Dual, ParameterSlot, Slot

__all__ = ["DualMode"]

_SWITCHES = frozenset({torch._C._set_grad_enabled, torch.set_grad_enabled})


class DualMode(TorchFunctionMode):
    """One pass over the model.

    ``parameters``: name -> parameter; ``tangents``: name -> (K, \\*shape), or None for a pass without tangents;
    ``out``: name -> accumulator, or None for a pass without a reverse sweep; ``one_stream``: the adjoint of the
    tangent is dropped at the logits (Gauss-Newton). ``tape`` is None while nothing is recorded.
    """

    def __init__(
        self,
        parameters: dict[str, torch.nn.Parameter],
        tangents: dict[str, Tensor] | None,
        out: dict[str, Tensor] | None,
        one_stream: bool = False,
        token_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.one_stream = one_stream
        self.token_weights = token_weights
        self.tape: Tape | None = None if out is None else Tape()
        self.touched: set[str] = set()
        self.tokens: list[tuple[Any, Tensor]] = []  # per token losses, as the cross-entropy rule saw them
        self._parameters: dict[int, tuple[str, Dual]] = {}
        for name, parameter in parameters.items():
            slot = ParameterSlot(name, None if out is None else out[name], one_stream)
            tangent = None if tangents is None else tangents[name].to(parameter.dtype)
            self._parameters[id(parameter)] = (name, Dual(parameter.detach(), tangent, slot))
        # plain tensors that were written to with a Dual: they keep their identity in the model's code, and every
        # use of them from then on is a use of the Dual. The tensor is kept so that its id stays its own.
        self.shadows: dict[int, tuple[Tensor, Dual]] = {}

    def new_slot(self) -> Slot:
        """A slot for a new result."""
        return UNTAPED if self.tape is None else Slot()

    def record(self, primal: Tensor, tangent: Tensor | None, backward: Callable) -> Dual:
        """The Dual of a result whose adjoints ``backward(g, h)`` hands on."""
        if self.tape is None:
            return Dual(primal, tangent, UNTAPED)
        slot = Slot()
        self.tape.append(slot, backward)
        return Dual(primal, tangent, slot)

    def lookup(self, value: Any) -> Any:
        """``value``, or the Dual that stands for it."""
        kind = type(value)
        if kind is torch.nn.Parameter:
            found = self._parameters.get(id(value))
            if found is not None:
                self.touched.add(found[0])
                return found[1]
            return value
        if kind is Tensor:
            if self.shadows:
                found = self.shadows.get(id(value))
                if found is not None:
                    return found[1]
            return value
        if isinstance(value, Dual):
            return value if value.root is None else refreshed(self, value)
        if isinstance(value, torch.nn.Parameter):
            found = self._parameters.get(id(value))
            if found is not None:
                self.touched.add(found[0])
                return found[1]
            return value
        if kind is tuple or kind is list:
            new = [self.lookup(v) for v in value]
            if any(a is not b for a, b in zip(new, value, strict=True)):
                return kind(new)
            return value
        if kind is dict:
            return {k: self.lookup(v) for k, v in value.items()}
        return value

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in _SWITCHES:
            return func(*args, **(kwargs or {}))
        recording = torch.is_grad_enabled()
        if recording:
            torch._C._set_grad_enabled(False)
        try:
            args = tuple([self.lookup(a) for a in args])
            kwargs = {k: self.lookup(v) for k, v in kwargs.items()} if kwargs else {}
            if not (_any_dual(args) or (kwargs and _any_dual(kwargs.values()))):
                return func(*args, **kwargs)
            return find_rule(func)(self, func, args, kwargs, recording)
        finally:
            if recording:
                torch._C._set_grad_enabled(True)


def _any_dual(values: Any) -> bool:
    for value in values:
        if isinstance(value, Dual):
            return True
        if isinstance(value, (list, tuple)) and _any_dual(value):
            return True
        if type(value) is dict and _any_dual(value.values()):
            return True
    return False


def as_loss(value: Any) -> Dual:
    """The scalar loss that the model or the user's function returned, checked."""
    if not isinstance(value, Tensor):
        raise InvalidInputError(
            f"loss: expected a scalar tensor, got {type(value).__name__}: pass batches with labels, or loss=function"
        )
    if value.numel() != 1:
        raise InvalidInputError(f"loss: expected a scalar, got shape {tuple(value.shape)}: sum it or take its mean")
    if not isinstance(value, Dual):
        raise InvalidInputError("loss: it does not depend on any of the chosen parameters")
    return value
