"""Scaled dot-product attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel

from .generic import call_function

__all__ = ["unfused"]


def unfused(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """The generic rule on torch's unfused attention, the only one of its backends that has all derivatives."""

    def function(*a: Any, **k: Any) -> Any:
        with sdpa_kernel(SDPBackend.MATH):
            return func(*a, **k)

    return call_function(ctx, function, args, kwargs)
