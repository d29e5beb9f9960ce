"""``torch.autograd.Function`` in a model: no torch function, so the function mode does not see it.

While a pass runs, ``Function.apply`` goes through the generic rule. It is followed as PyTorch's double backward follows
it: its backward is what defines the derivative. Two kinds of backward would give silently wrong second derivatives,
and are refused by name: one that autograd cannot differentiate again, and one that works on intermediate results which
the forward computed (they look like constants to autograd).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import _SingleLevelFunction
from torch.utils._pytree import tree_flatten

from .patches import is_here
from .rules.generic import call_function
from .values import Dual, UnsupportedOperationError

__all__ = ["followed_functions"]


def _floats(values: Any) -> list[Tensor]:
    return [v for v in tree_flatten(values)[0] if isinstance(v, Tensor) and v.dtype.is_floating_point]


def _place(tensor: Tensor) -> tuple:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _check(cls: type, results: Any, given: tuple) -> None:
    """Raises UnsupportedOperationError where a second derivative through ``cls`` would be wrong without a word."""
    outputs = [y for y in _floats(results) if y.grad_fn is not None]
    known = {_place(t) for t in (*_floats(given), *outputs)}
    for y in outputs:
        node = y.grad_fn
        saved = [*getattr(node, "saved_tensors", ()), *getattr(node, "__dict__", {}).values()]
        if any(_place(t) not in known for t in _floats(saved)):
            raise UnsupportedOperationError(
                f"model: {cls.__name__} (a torch.autograd.Function) keeps intermediate results of its forward, which "
                f"are constants to a second derivative: it would be wrong. Use the plain PyTorch form of this function"
            )
        leaves = [t for t in _floats(given) if t.requires_grad]
        u = torch.zeros_like(y, requires_grad=True)
        try:
            pulled = torch.autograd.grad(y, leaves, u, create_graph=True, retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            raise UnsupportedOperationError(f"model: the backward of {cls.__name__} fails: {error}") from error
        if any(p is not None and not _differentiable(p, u) for p in pulled):
            raise UnsupportedOperationError(
                f"model: the backward of {cls.__name__} (a torch.autograd.Function) has no derivative itself: use the "
                f"plain PyTorch form of this function"
            )


def _differentiable(pulled: Tensor, u: Tensor) -> bool:
    try:
        return pulled.requires_grad and torch.autograd.grad(pulled.sum(), u, retain_graph=True)[0] is not None
    except RuntimeError:  # once_differentiable, or cut off from u
        return False


@contextmanager
def followed_functions(mode: Any) -> Iterator[None]:
    """In this context ``Function.apply`` takes values of the pass.

    What is replaced is the step below ``Function.apply``, as models keep bound copies of that
    (``gelu = GeLUFunction.apply``).
    """

    def original(cls: type, *args: Any, **kwargs: Any) -> Any:
        return super(_SingleLevelFunction, cls).apply(*args, **kwargs)

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        if not is_here(mode):
            return original(cls, *args, **kwargs)
        found = mode.lookup(args, True)
        if not torch.is_grad_enabled() or not any(isinstance(a, Dual) for a in tree_flatten((found, kwargs))[0]):
            return original(cls, *args, **kwargs)

        def function(*values: Any, **options: Any) -> Any:
            try:
                result = original(cls, *values, **options)
            except RuntimeError as error:
                if "leaf Variable" not in str(error):
                    raise
                raise UnsupportedOperationError(
                    f"model: {cls.__name__} (a torch.autograd.Function) writes into its argument, which cannot be "
                    f"followed: let it return a new tensor, without mark_dirty"
                ) from error
            if any(t.requires_grad for t in _floats(values)):
                _check(cls, result, values)
            return result

        with torch._C.DisableTorchFunction():
            return call_function(mode, function, found, kwargs)

    _SingleLevelFunction.apply = classmethod(apply)
    try:
        yield
    finally:
        del _SingleLevelFunction.apply
