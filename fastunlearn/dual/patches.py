"""Functions put in the place of modules' forward for the time of a pass, and taken out again whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["replaced_forwards"]


@contextmanager
def replaced_forwards(replacements: list[tuple[nn.Module, Callable[[Callable], Callable]]]) -> Iterator[None]:
    """For each (module, make): ``module.forward = make(module.forward)`` until the end of the block."""
    undo: list[tuple[nn.Module, bool, Callable]] = []
    try:
        for module, make in replacements:
            own = module.forward
            undo.append((module, "forward" in module.__dict__, own))
            module.__dict__["forward"] = make(own)
        yield
    finally:
        for module, had_one, own in reversed(undo):
            if had_one:
                module.__dict__["forward"] = own
            else:
                module.__dict__.pop("forward", None)
