"""Functions put in the place of modules' forward for the time of a pass, and taken out again whatever happens.

A thread without the pass runs the modules' own code meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.overrides import _get_current_function_mode_stack

__all__ = ["is_here", "replaced_forwards"]

def is_here(mode: Any) -> bool:
    """Whether the pass ``mode`` is on in this thread."""
    return any(one is mode for one in _get_current_function_mode_stack())


@contextmanager
def replaced_forwards(
    mode: Any, replacements: list[tuple[nn.Module, Callable[[Callable], Callable]]]
) -> Iterator[None]:
    """For each (module, make): ``module.forward = make(module.forward)`` where ``mode`` is on, until the end of the
    block."""
    undo: list[tuple[nn.Module, bool, Callable]] = []
    try:
        for module, make in replacements:
            own = module.forward
            undo.append((module, "forward" in module.__dict__, own))
            module.__dict__["forward"] = _here(mode, make(own), own)
        yield
    finally:
        for module, had_one, own in reversed(undo):
            if had_one:
                module.__dict__["forward"] = own
            else:
                module.__dict__.pop("forward", None)


def _here(mode: Any, made: Callable, own: Callable) -> Callable:
    def run(*args: Any, **kwargs: Any) -> Any:
        return (made if is_here(mode) else own)(*args, **kwargs)

    return run
