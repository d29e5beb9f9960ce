"""Checks of the arguments of the linear ops, worded for the person who called them."""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError

from .reference import accumulator

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check(name: str, value: Tensor | None, shape: tuple[int | None, ...], like: Tensor) -> Tensor | None:
    """``value`` detached, after a check of its shape (None in ``shape`` = any size), dtype and device. A sign that
    PyTorch puts off to the next operation (the imaginary part of a conjugate) is there: kernels read the memory."""
    if value is None:
        return None
    fits = value.dim() == len(shape) and all(w is None or w == s for w, s in zip(shape, value.shape, strict=True))
    if not fits:
        wanted = ", ".join("K" if size is None else str(size) for size in shape)
        raise InvalidInputError(f"{name} has shape {tuple(value.shape)}; it must be ({wanted})")
    if value.dtype != like.dtype or value.device != like.device:
        raise InvalidInputError(
            f"{name} is {value.dtype} on {value.device}; give it the dtype and device of the others, "
            f"{like.dtype} on {like.device}"
        )
    return value.detach().resolve_neg()


def check_matrix(name: str, value: Tensor) -> Tensor:
    """``value`` detached as by :func:`check`, after a check that it is a floating 2-D tensor."""
    if not isinstance(value, Tensor) or value.dim() != 2:
        raise InvalidInputError(f"{name} must be a 2-D tensor; flatten the leading axes")
    if value.dtype not in FLOATS:
        raise InvalidInputError(f"{name} has dtype {value.dtype}; use float32, float64, bfloat16 or float16")
    return value.detach().resolve_neg()


def check_streams(**tangents: Tensor | None) -> int:
    """K, the common length of the leading axis of the tangents that are given; 0 where none is."""
    sizes = {name: value.shape[0] for name, value in tangents.items() if value is not None}
    if len(set(sizes.values())) > 1:
        raise InvalidInputError(f"the leading axes (K) differ: {sizes}; give every tangent the same number of streams")
    count = next(iter(sizes.values()), None)
    if count == 0:
        raise InvalidInputError(f"{next(iter(sizes))} has no streams: K must be at least 1, or pass None for zero")
    return count or 0


def check_out(name: str, out: Tensor | None, shape: tuple[int, ...], like: Tensor) -> Tensor | None:
    """Checks an accumulator: its shape, and float32 or float64 as ``like`` asks (float32 for half dtypes)."""
    if out is None:
        return None
    wanted = (torch.float64,) if like.dtype == torch.float64 else (torch.float32, torch.float64)
    if tuple(out.shape) != shape or out.dtype not in wanted or out.device != like.device:
        raise InvalidInputError(
            f"{name} is {tuple(out.shape)} {out.dtype} on {out.device}; it must be {shape} "
            f"{accumulator(like.dtype)} on {like.device}: sums are added to it in place"
        )
    if out.requires_grad:
        raise InvalidInputError(f"{name} requires grad; sums are added to it in place, so pass a plain tensor")
    return out
