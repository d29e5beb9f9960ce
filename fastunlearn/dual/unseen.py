"""Code that the function mode does not see: scripted or compiled functions, transforms of torch.func, C++ extensions.

A value of the pass that comes there raises by itself. A *parameter* does not: it is a tensor as any other. Autograd
runs along outside the rules, so what such code made of a parameter has a graph, and what a rule made has none; under a
transform the graph is missing, but the tensor that the transform wraps is the parameter itself.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .values import Dual, UnsupportedOperationError

__all__ = ["refuse_transform", "refuse_unseen", "under_transform", "varied"]

#: The innermost transform of torch.func that is running, or None.
under_transform = torch._C._functorch.peek_interpreter_stack


@contextmanager
def varied(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """The parameters as autograd varies them, also those that the model has frozen (what is made of them shows it)."""
    frozen = [p for p in parameters.values() if not (p.requires_grad or p.is_inference())]
    for p in frozen:
        p.requires_grad_(True)
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad_(False)


def refuse_unseen(value: Tensor, parameters: Container[int]) -> None:
    """Raises UnsupportedOperationError where ``value`` was made of one of the parameters (by id) out of sight."""
    if torch._C._functorch.is_functorch_wrapped_tensor(value):
        while torch._C._functorch.is_functorch_wrapped_tensor(value):
            value = torch._C._functorch.get_unwrapped(value)
        if isinstance(value, Dual) or id(value) in parameters:
            refuse_transform()
    elif value.grad_fn is not None and _reaches(value.grad_fn, parameters):
        raise UnsupportedOperationError(
            f"model: {value.grad_fn.name()} made something of a parameter where no rule can see it (scripted or "
            f"compiled code, a C++ extension, or before this pass): write that part in plain PyTorch, or detach() the "
            f"result if it is a constant"
        )


def refuse_transform() -> None:
    """Raises UnsupportedOperationError."""
    raise UnsupportedOperationError(
        "model: a transform of torch.func (vmap, grad, jvp) works on a value that depends on the parameters, and a "
        "dual pass cannot look inside: write that part in plain PyTorch"
    )


def _reaches(node: Any, parameters: Container[int]) -> bool:
    seen, waiting = set(), [node]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if id(getattr(node, "variable", None)) in parameters:
            return True
        waiting.extend(before for before, _ in node.next_functions)
    return False
