"""Ordinary models made twice differentiable, and faster at it, for other tools.

PyTorch's fused attention has no second derivative on the CPU, ``silu`` no forward-mode AD of its backward, and
``log_softmax`` fails in reverse over forward mode; so Hessian tools need eager attention, or fail. Here those
functions, GELU and the norms are replaced by fastunlearn's pairs, which have all derivatives up to the second:

    with fu.accelerated():                       # for whatever runs in this block
        loss = model(**batch).loss
    fu.accelerate(model)                         # for this model, until undo()
    with fu.accelerate(model): ...               # the same, undone at the end; so end with the backward

An embedding's padding row is a constant in forward mode too, as it is in PyTorch's gradient, so all routes agree.

Then ``torch.autograd.grad`` twice, ``torch.func.jvp`` of ``grad``, forward-mode AD and ``torch.func.vmap`` over
vectors work. Values and first derivatives are what they were, beyond rounding. Nothing is patched globally: a
function mode is on in this thread only, and a model's change is an entry in the instance.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from types import TracebackType

from torch import nn
from torch.overrides import _get_current_function_mode_stack

from fastunlearn.errors import InvalidInputError

from .functions import AcceleratedMode
from .modules import replacement_of

__all__ = ["Accelerated", "accelerate", "accelerated"]


#: Modules that call none of the functions that are replaced.
_PLAIN = (nn.Linear, nn.Dropout, nn.Identity, nn.ModuleList, nn.ModuleDict)


def accelerated() -> AcceleratedMode:
    """A context in which PyTorch's attention, cross-entropy, log_softmax, SiLU, GELU and norms are the twice
    differentiable ones of fastunlearn, for this thread. What they do not cover (dropout, class weights, learnt masks,
    integer dtypes) is left to PyTorch. Results change by rounding only.
    """
    return AcceleratedMode()


class Accelerated:
    """The handle of :func:`accelerate`: ``undo()`` takes it back, and so does the end of a ``with`` block."""

    def __init__(self, model: nn.Module, replaced: list[str]) -> None:
        self.model = model
        self.replaced = replaced  #: names of the modules whose forward is replaced; "" is the model itself

    def undo(self) -> None:
        """Takes every change out of the model. A second call does nothing."""
        modules = dict(self.model.named_modules())
        for name in self.replaced:
            modules[name].__dict__.pop("forward", None)
        self.replaced = []

    def __enter__(self) -> Accelerated:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.undo()


def accelerate(model: nn.Module) -> Accelerated:
    """Makes ``model`` twice differentiable and fused for any tool, until ``undo()`` or the end of a ``with`` block.

    Every forward of the model, and of each of its parts that checkpointing may run again, runs inside
    :func:`accelerated`; and modules that are written out of small pieces but are an RMSNorm or a GELU (checked on a
    random input against their own code) are replaced as a whole. Weights, names and the class stay. Raises
    InvalidInputError where ``model`` is no module, is accelerated already, or has a forward of its own in the instance
    (then use :func:`accelerated` around the call).
    """
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"model must be a torch.nn.Module; it is {type(model).__name__}")
    if "forward" in model.__dict__:
        raise InvalidInputError(
            "model: its forward is replaced in the instance already (by accelerate, or by another tool); "
            "undo that first, or use accelerated() around the call"
        )
    handle = Accelerated(model, [])
    for name, module in model.named_modules():
        if module is model or "forward" in module.__dict__:
            continue
        found = replacement_of(module)
        if found is None and not isinstance(module, _PLAIN):
            found = _inside(type(module).forward)  # checkpointing runs it once more in the backward, by itself
        if found is not None:
            module.__dict__["forward"] = types.MethodType(found, module)
            handle.replaced.append(name)
    model.__dict__["forward"] = types.MethodType(_inside(type(model).forward), model)
    handle.replaced.append("")
    return handle


def _inside(forward: Callable) -> Callable:
    """``forward`` in the mode, where it is not on. Bound as a method, so that a deep copy of the model has its own."""

    @functools.wraps(forward)
    def run(self: nn.Module, *args: object, **kwargs: object) -> object:
        if any(type(mode) is AcceleratedMode for mode in _get_current_function_mode_stack()):
            return forward(self, *args, **kwargs)
        with AcceleratedMode():
            return forward(self, *args, **kwargs)

    return run
