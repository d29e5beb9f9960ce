"""Repeated blocks: kept on the tape, or run without it and once more in the reverse sweep.

A block that is recomputed keeps its arguments alone, so memory is that of one block and of the hidden states between
blocks; it costs a second dual forward (3 of then 11 units instead of 8).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._pytree import tree_flatten, tree_unflatten

from .tape import Tape
from .values import UNTAPED, Dual, Slot

__all__ = ["BlockPolicy", "repeated_blocks"]


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The members of the module list that holds most parameters, [] where there is no list of two or more."""
    best: list[nn.Module] = []
    most = 0
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) > 1:
            size = sum(p.numel() for p in module.parameters())
            if size > most:
                best, most = list(module), size
    return best


class BlockPolicy:
    """Which blocks of a pass are recomputed.

    ``budget``: bytes of saved values that may be kept; None keeps all, 0 recomputes every block. The first block is
    kept and measured; then the first and as many of the last as fit are kept (the last are gone from memory when an
    early one is recomputed).
    """

    def __init__(self, count: int, budget: int | None) -> None:
        self._count = count
        self._budget = budget
        self._kept: int | None = None
        self.block_bytes: int | None = None

    def keeps(self, index: int) -> bool:
        """Whether block ``index`` is to be kept."""
        if self._budget is None or (index == 0 and self._budget > 0):
            return True
        kept = 0 if self._kept is None else self._kept
        return index >= self._count - kept

    def measured(self, size: int) -> None:
        """``size``: bytes that the first block saved."""
        self.block_bytes = size
        self._kept = max(0, (self._budget or 0) // max(size, 1) - 1)

    @property
    def wants_size(self) -> bool:
        """Whether the first block must be measured."""
        return self._budget is not None and self._budget > 0 and self._kept is None


def block_forward(
    mode: Any, forward: Callable, index: int, policy: BlockPolicy, reversing: Callable[[], Any] = nullcontext
) -> Callable:
    """The forward function that takes the place of a block's own during a pass. ``reversing()``: a context around the
    reverse sweep of a block that is recomputed."""

    def run(*args: Any, **kwargs: Any) -> Any:
        if mode.tape is None:
            return forward(*args, **kwargs)
        if policy.keeps(index):
            if index or not policy.wants_size:
                return forward(*args, **kwargs)
            mode.start_measuring()
            try:
                return forward(*args, **kwargs)
            finally:
                policy.measured(mode.stop_measuring())
        return _recomputed(mode, forward, args, kwargs, reversing)

    return run


def _recomputed(mode: Any, forward: Callable, args: tuple, kwargs: dict, reversing: Callable[[], Any]) -> Any:
    given = mode.lookup((args, kwargs), True)
    flat, spec = tree_flatten(given)
    inputs = [(i, a) for i, a in enumerate(flat) if isinstance(a, Dual)]
    inner_modes = _get_current_function_mode_stack()
    inner_modes = inner_modes[inner_modes.index(mode) + 1 :]  # function modes that the loss or the model set up
    tape, mode.tape = mode.tape, None
    try:
        results, result_spec = tree_flatten(forward(*args, **kwargs))
        results = [mode.lookup(r, True) for r in results]
    finally:
        mode.tape = tape
    if not any(isinstance(r, Dual) and r.slot is UNTAPED for r in results):
        return tree_unflatten(results, result_spec)
    places, slots = [], []
    for i, r in enumerate(results):
        if isinstance(r, Dual) and r.slot is UNTAPED:
            results[i] = Dual(r.primal, r.tangent, Slot())
            places.append(i)
            slots.append(results[i].slot)
    constants = [None if isinstance(a, Dual) else a for a in flat]

    def backward(adjoints: list) -> None:
        fresh = list(constants)
        copies = []
        for i, a in inputs:
            fresh[i] = Dual(a.primal, a.tangent, Slot())
            copies.append((fresh[i].slot, a.slot))
        again = Tape()
        outer, mode.tape = mode.tape, again
        try:
            with reversing():
                with ExitStack() as stack:
                    for context in (torch.enable_grad(), mode, *inner_modes):
                        stack.enter_context(context)
                    new_args, new_kwargs = tree_unflatten(fresh, spec)
                    outputs, _ = tree_flatten(forward(*new_args, **new_kwargs))
                    outputs = [mode.lookup(outputs[i], True) for i in places]
                for output, (g, h) in zip(outputs, adjoints, strict=True):
                    output.slot.add(g, h)
                del outputs, fresh
                again.reverse()
        finally:
            mode.tape = outer
        for copy, slot in copies:
            slot.add(*copy.take())

    tape.append(tuple(slots), backward)
    return tree_unflatten(results, result_spec)
