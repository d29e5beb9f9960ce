"""Rotary position embedding: in models a function of a dozen small operations on tensors of the size of the queries,
here one kernel for values, tangents and adjoints alike.

The function is recognised by its name in the Python module of one of the model's classes, and *checked*: on the first
real input its own result is compared with the operation's. Where they differ, the function's own code runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

from fastunlearn.ops import rope as op
from fastunlearn.ops._recording import recording

from .modules import agree
from .values import Dual

__all__ = ["RotaryRules"]

_NAME = "apply_rotary_pos_emb"


class RotaryRules:
    """The rotary functions that a model calls; what the check of each said is remembered."""

    def __init__(self, model: nn.Module) -> None:
        names = dict.fromkeys(type(m).__module__ for m in model.modules())
        found = [sys.modules[name] for name in names if name in sys.modules]
        self._homes = [home for home in found if callable(getattr(home, _NAME, None))]
        # Function, dtypes and width of the tables -> whether pairs are interleaved; None: its own code.
        self._checked: dict[tuple, bool | None] = {}

    @contextmanager
    def replaced(self, mode: Any) -> Iterator[None]:
        """In this context the model's rotary functions take values of the pass ``mode``."""
        undo = []
        try:
            for home in self._homes:
                own = getattr(home, _NAME)
                undo.append((home, own))
                setattr(home, _NAME, self._function(mode, own))
            yield
        finally:
            for home, own in reversed(undo):
                setattr(home, _NAME, own)

    def _function(self, mode: Any, own: Callable) -> Callable:
        def rotate(*args: Any, **kwargs: Any) -> Any:
            # Another thread may run the same kind of model meanwhile, without this pass.
            if kwargs or len(args) != 4 or mode not in _get_current_function_mode_stack():
                return own(*args, **kwargs)
            values = mode.lookup(args, True)
            if not torch.is_grad_enabled() or not _fits(values):
                return own(*args)
            with torch.no_grad(), torch._C.DisableTorchFunction():
                interleaved = self._check(own, values)
                if interleaved is not None:
                    return tuple(_rotated(mode, x, *values[2:], interleaved) for x in values[:2])
            return own(*args)

        return rotate

    def _check(self, own: Callable, values: tuple) -> bool | None:
        plain = [v.primal if isinstance(v, Dual) else v for v in values]
        key = (own, plain[0].dtype, plain[2].dtype, plain[2].shape[-1])
        if key not in self._checked:
            if recording(plain[0]):  # a graph cannot look at values; what ran before it could not tell either
                return None
            truth = own(*plain)
            fitting = [
                turned
                for turned in (False, True)
                if len(truth) == 2
                and all(agree(y, op.apply(x, *plain[2:], turned)) for x, y in zip(plain[:2], truth, strict=True))
            ]
            if len(fitting) > 1 and plain[2].shape[-1] > 2:  # no angles, as at position 0: nothing can be told
                return None
            self._checked[key] = next(iter(fitting), None)
        return self._checked[key]


def _fits(values: tuple) -> bool:
    """Whether these are queries and keys (B, H, S, D), one of them with tangents, and tables (B, S, R), constants."""
    q, k, cos, sin = values
    if not all(isinstance(v, Tensor) and v.is_floating_point() for v in values):
        return False
    if [isinstance(v, Dual) for v in (cos, sin)] != [False, False] or not any(isinstance(v, Dual) for v in (q, k)):
        return False
    length, width = cos.shape[-2:] if cos.dim() == 3 else (0, 0)
    tables = cos.shape == sin.shape and width > 0 and width % 2 == 0
    return tables and all(
        x.dim() == 4 and x.shape[2] == length and x.shape[3] >= width and cos.shape[0] in (1, x.shape[0])
        for x in (q, k)
    )


def _rotated(mode: Any, x: Any, cos: Tensor, sin: Tensor, interleaved: bool) -> Any:
    if not isinstance(x, Dual):
        return op.apply(x, cos, sin, interleaved)
    slot = x.slot

    def backward(g: Tensor | None, h: Tensor | None) -> None:
        back = [None if one is None else op.apply(one, cos, sin, interleaved, True) for one in (g, h)]
        slot.add(*back, fresh=True)

    tangent = None if x.tangent is None else op.apply(x.tangent, cos, sin, interleaved)
    return mode.record(op.apply(x.primal, cos, sin, interleaved), tangent, backward)
