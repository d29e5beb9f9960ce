"""What a model's forward keeps in its modules: states, caches, running values (Griffin's recurrent blocks do)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from .values import Dual

__all__ = ["without_leftovers"]


@contextmanager
def without_leftovers(model: nn.Module) -> Iterator[None]:
    """At the end of the block, attributes and buffers of the modules that hold values of the pass hold plain tensors
    instead: a model with values of a pass in it could not be copied, and would keep their memory."""
    try:
        yield
    finally:
        for module in model.modules():
            for held in (module.__dict__, module._buffers):
                for name, value in held.items():
                    if type(value) is Dual:
                        held[name] = None if value.pending is not None else value.primal.detach()
