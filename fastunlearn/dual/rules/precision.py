"""A float64 pass stays in float64.

Models round to float32 in places (norms, the softmax of attention, the loss) to gain precision over bfloat16; in a
float64 model that loses nine digits. Where all chosen parameters are float64, such down-casts of values that depend on
them are left out. Constants are as the model computes them; where both meet in a function that takes one dtype
alone (a router's ``F.linear(x.float(), weight.float())``), constants are widened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..values import Dual

__all__ = ["keeping_casts", "keeping_dtype"]

_NARROW = frozenset({torch.float32, torch.bfloat16, torch.float16})


def _is_wide(ctx: Any, value: Any) -> bool:
    return ctx.wide and isinstance(value, Dual) and value.dtype == torch.float64


def keeping_casts(rule: Callable) -> Callable:
    """``rule`` for changes of dtype, without those from float64 to a narrower one."""

    def kept(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
        if args and _is_wide(ctx, args[0]):
            x = args[0]
            rest = [torch.empty(0, dtype=a.dtype, device=a.device) if isinstance(a, Dual) else a for a in args[1:]]
            like = func(torch.empty(0, dtype=x.dtype, device=x.device), *rest, **kwargs)
            if isinstance(like, torch.Tensor) and like.dtype in _NARROW:
                return x.copy()  # as a cast is one
        return rule(ctx, func, args, kwargs)

    return kept


def _widened(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)([_widened(v) for v in value])
    narrow = isinstance(value, torch.Tensor) and not isinstance(value, Dual) and value.dtype in _NARROW
    return value.double() if narrow else value


def keeping_dtype(rule: Callable, alike: bool) -> Callable:
    """``rule``, with ``dtype=float64`` where a narrower one is asked for (``softmax(x, dtype=torch.float32)``).
    ``alike``: the function takes tensors of one dtype alone."""

    def kept(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
        if alike and ctx.wide:
            flat = [*args, *kwargs.values(), *(v for a in args if isinstance(a, (tuple, list)) for v in a)]
            if any(_is_wide(ctx, a) for a in flat):
                args, kwargs = tuple(_widened(a) for a in args), {k: _widened(v) for k, v in kwargs.items()}
        if kwargs and kwargs.get("dtype") in _NARROW and any(_is_wide(ctx, a) for a in (*args, *kwargs.values())):
            kwargs = {**kwargs, "dtype": torch.float64}
        return rule(ctx, func, args, kwargs)

    return kept
