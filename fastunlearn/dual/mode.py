"""The function mode that sees every torch function of the model's forward, and sends it to its rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastunlearn.errors import InvalidInputError

from .rules import find_rule
from .rules.logits import DeferredLogits
from .rules.views import Shadow, current
from .tape import Tape
from .unseen import refuse_transform, refuse_unseen, under_transform
from .values import UNTAPED, Dual, ParameterSlot, Slot

__all__ = ["DualMode"]

_SWITCHES = frozenset({torch._C._set_grad_enabled, torch.set_grad_enabled})


class DualMode(TorchFunctionMode):
    """One pass over the model.

    ``parameters``: name -> parameter; ``tangents``: name -> (K, *shape), or None for a pass without tangents;
    ``out``: name -> accumulator, or None for a pass without a reverse sweep; ``one_stream``: the adjoint of the
    tangent is dropped at the logits (Gauss-Newton); ``heads``: ids of the weights of output layers. ``tape`` is None
    while nothing is recorded.
    """

    def __init__(
        self,
        parameters: dict[str, torch.nn.Parameter],
        tangents: dict[str, Tensor] | None,
        out: dict[str, Tensor] | None,
        one_stream: bool = False,
        heads: frozenset[int] = frozenset(),
    ) -> None:
        super().__init__()
        self.one_stream = one_stream
        self.has_tangents = tangents is not None
        self.wide = all(p.dtype == torch.float64 for p in parameters.values())
        self.out_bytes = 0 if out is None else sum(t.nbytes for t in out.values())
        self._heads = heads
        self._sizes: dict[int, int] | None = None
        self.tape: Tape | None = None if out is None else Tape()
        self.touched: set[str] = set()
        self.tokens: list[tuple[Any, Tensor]] = []  # per token losses, as the cross-entropy rule saw them
        self._parameters: dict[int, tuple[str, Dual]] = {}
        for name, parameter in parameters.items():
            slot = ParameterSlot(name, None if out is None else out[name], one_stream, id(parameter) in heads)
            tangent = None if tangents is None else tangents[name].to(parameter.dtype)
            self._parameters[id(parameter)] = (name, Dual(parameter.detach(), tangent, slot))
        self.shadows: dict[int, Shadow] = {}  # values of objects that were written to in place
        self._strict = False  # whether the function that runs has a derivative

    def unused(self) -> frozenset[str]:
        """Names of the chosen parameters that no function has seen yet."""
        return frozenset(name for name, _ in self._parameters.values()) - self.touched

    def new_slot(self) -> Slot:
        """A slot for a new result."""
        return UNTAPED if self.tape is None else Slot()

    def is_head(self, weight: Tensor) -> bool:
        """Whether this is the weight of an output layer."""
        if isinstance(weight, Dual):
            return isinstance(weight.slot, ParameterSlot) and weight.slot.is_head
        return id(weight) in self._heads

    def defer_logits(self, x: Any, weight: Any, bias: Any) -> Dual:
        """The output layer's result, to be computed with the loss."""
        return DeferredLogits(x, weight, bias, x.dtype).value()

    def start_measuring(self) -> None:
        """From now on the memory of new values is counted."""
        self._sizes = {}

    def stop_measuring(self) -> int:
        """Bytes of the values that came into being since :meth:`start_measuring`."""
        sizes, self._sizes = self._sizes, None
        return sum(sizes.values())

    def _count(self, *tensors: Tensor | None) -> None:
        for tensor in tensors:
            if tensor is not None:
                storage = tensor.untyped_storage()
                self._sizes[storage.data_ptr()] = storage.nbytes()

    def record(
        self, primal: Tensor, tangent: Tensor | None, backward: Callable, recipe: Callable | None = None
    ) -> Dual:
        """The Dual of a result whose adjoints ``backward(g, h)`` hands on; ``recipe``: see :class:`.values.Dual`."""
        if self.tape is None:
            return Dual(primal, tangent, UNTAPED)
        slot = Slot()
        self.tape.append(slot, backward)
        if self._sizes is not None and recipe is None:
            self._count(primal, tangent)
        result = Dual(primal, tangent, slot)
        result.recipe = recipe
        return result

    def forced(self, value: Any) -> Any:
        """``value``, computed now if it was put off."""
        if isinstance(value, Dual) and value.pending is not None:
            found = value.pending.force(self)
            value.primal, value.tangent, value.slot, value.recipe = (
                found.primal,
                found.tangent,
                found.slot,
                found.recipe,
            )
            value.pending = None
        return value

    def lookup(self, value: Any, force: bool) -> Any:
        """``value``, or the Dual that stands for it by now; ``force``: a value that was put off is computed."""
        kind = type(value)
        if kind is torch.nn.Parameter or (kind is not Tensor and isinstance(value, torch.nn.Parameter)):
            found = self._parameters.get(id(value))
            if found is None:
                return value
            self.touched.add(found[0])
            return current(self, found[1]) if self.shadows else found[1]
        if kind is Tensor:
            if self._strict and (value.requires_grad or under_transform() is not None):
                refuse_unseen(value, self._parameters)
            return current(self, value) if self.shadows and id(value) in self.shadows else value
        if kind is Dual:
            if self.shadows:
                value = current(self, value)
            return self.forced(value) if force and value.pending is not None else value
        if kind is tuple or kind is list:
            new = [self.lookup(v, force) for v in value]
            if any(a is not b for a, b in zip(new, value, strict=True)):
                return kind(new)
        elif kind is dict:
            return {k: self.lookup(v, force) for k, v in value.items()}
        elif isinstance(value, tuple):  # named ones, as torch.aminmax returns
            new = [self.lookup(v, force) for v in value]
            if any(a is not b for a, b in zip(new, value, strict=True)):
                return kind(*new) if hasattr(value, "_fields") else kind(new)
        return value

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in _SWITCHES:
            return func(*args, **(kwargs or {}))
        recording = torch.is_grad_enabled()
        if recording:
            torch._C._set_grad_enabled(False)
        try:
            rule, force, smooth, refuse_draw = find_rule(func)
            if refuse_draw is not None:
                refuse_draw(func, args, kwargs or {})
            self._strict = smooth and recording
            args = tuple([self.lookup(a, force) for a in args])
            kwargs = {k: self.lookup(v, force) for k, v in kwargs.items()} if kwargs else {}
            if not (_any_dual(args) or (kwargs and _any_dual(kwargs.values()))):
                return func(*args, **kwargs)
            if self._strict and under_transform() is not None:
                refuse_transform()
            result = rule(self, func, args, kwargs, recording)
            # A function that did nothing: the model goes on with its own object, not with that one's value of today.
            return result.owner if type(result) is Dual and result.owner is not None else result
        finally:
            self._strict = False
            if recording:
                torch._C._set_grad_enabled(True)


def _any_dual(values: Any) -> bool:
    for value in values:
        kind = type(value)
        if kind is Dual:
            return True
        if (kind is tuple or kind is list) and _any_dual(value):
            return True
        if kind is dict and _any_dual(value.values()):
            return True
        if kind is not tuple and isinstance(value, tuple) and _any_dual(value):
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
