"""Under autocast PyTorch runs some functions in another dtype than their arguments'; so do their replacements."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["as_it_is", "cast", "without"]


def without(device: torch.device | None) -> AbstractContextManager:
    """No autocast, for what runs in dtypes of its own."""
    if device is None or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def as_it_is(device: torch.device | None) -> Callable[[], AbstractContextManager]:
    """Makes contexts with autocast as it is now."""
    if device is None or not torch.is_autocast_enabled(device.type):
        return nullcontext
    kind, dtype = device.type, torch.get_autocast_dtype(device.type)
    return lambda: torch.autocast(kind, dtype=dtype)


def cast(values: Iterable[Any], function: Callable, sample: Callable | None) -> list[Any]:
    """The arguments in the dtype that PyTorch runs ``function`` in, where autocast changes it. ``sample(function, x)``
    calls it on x (1, 1, 1, 8), like the first argument; None: autocast leaves it alone."""
    values = list(values)
    first = next((v for v in values if isinstance(v, Tensor)), None)
    if first is None or sample is None or not torch.is_autocast_enabled(first.device.type):
        return values
    kind = first.device.type
    found = _dtype_in(function, sample, first.device, first.dtype, torch.get_autocast_dtype(kind))
    if found == first.dtype:
        return values
    return [v.to(found) if isinstance(v, Tensor) and v.is_floating_point() else v for v in values]


@cache
def _dtype_in(
    function: Callable, sample: Callable, device: torch.device, dtype: torch.dtype, lower: torch.dtype
) -> torch.dtype:
    """Which one it is, is asked of PyTorch: its lists differ by version and by device."""
    with torch.no_grad(), torch.autocast(device.type, dtype=lower):
        return sample(function, torch.zeros(1, 1, 1, 8, dtype=dtype, device=device)).dtype
