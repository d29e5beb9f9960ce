"""Checks shared by the ops of the dual pass: primals, and tangents with a leading axis K."""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype that arithmetic is done in: float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_float(value: Tensor, name: str) -> None:
    """Checks that ``value`` is a floating tensor of a dtype that the ops know."""
    if not isinstance(value, Tensor) or value.dtype not in FLOATS:
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise InvalidInputError(f"{name} must be a tensor of float32, float64, bfloat16 or float16; it is {kind}")


def check_same(value: Tensor | None, name: str, like: Tensor, like_name: str, shape: tuple[int, ...]) -> None:
    """Checks that ``value`` (None passes) has ``shape`` and the dtype and device of ``like``."""
    if value is None:
        return
    if not isinstance(value, Tensor) or tuple(value.shape) != tuple(shape):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InvalidInputError(f"{name} must be a tensor of shape {tuple(shape)}, to go with {like_name}; it is {got}")
    if value.dtype != like.dtype or value.device != like.device:
        raise InvalidInputError(
            f"{name} is {value.dtype} on {value.device}, {like_name} is {like.dtype} on {like.device}: make them alike"
        )


def check_tangents(like: Tensor, like_name: str, tangents: dict[str, tuple[Tensor | None, tuple[int, ...]]]) -> int:
    """Checks tangents ``{name: (tensor or None, shape of its primal)}`` and returns their K (0 where all are None).

    Each has the shape (K, *primal shape), one K for all, and the dtype and device of ``like``.
    """
    count = 0
    for name, (value, shape) in tangents.items():
        if value is None:
            continue
        if not isinstance(value, Tensor) or value.dim() != len(shape) + 1:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InvalidInputError(f"{name} needs a leading axis K in front of {tuple(shape)}; its shape is {got}")
        if value.shape[0] < 1 or (count and value.shape[0] != count):
            raise InvalidInputError(
                f"{name} has K = {value.shape[0]}; K must be at least 1 and the same for all tangents"
                + (f" (it was {count})" if count else "")
            )
        count = value.shape[0]
        check_same(value, name, like, like_name, (count, *shape))
    return count
