"""What the attention functions accept: the specification of the scores, and the checks of tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class AttentionSpec:
    """How scores come from queries and keys: ``s = softcap(scale q.k) + alibi + mask``, for query i and key j.

    scale: factor of q . k. causal: only j <= i (top left, as ``is_causal`` of PyTorch's SDPA). window: only
    j > i - window. softcap c: ``c tanh(s / c)``, before everything that is added. mask: bool (True = attend) or
    floating-point and added, broadcastable to (B, H, S, T). alibi: slopes (H,); adds ``slope (j - i)``.
    """

    scale: float
    causal: bool = False
    window: int | None = None
    softcap: float | None = None
    mask: Tensor | None = None
    alibi: Tensor | None = None

    def __post_init__(self):
        if not math.isfinite(self.scale):
            raise InvalidInputError(f"scale={self.scale!r} must be finite")
        if self.window is not None and self.window < 1:
            raise InvalidInputError(f"window={self.window!r} must be at least 1, or None for no window")
        if self.softcap is not None and not 0 < self.softcap < math.inf:
            raise InvalidInputError(f"softcap={self.softcap!r} must be positive and finite, or None for no cap")
        if self.mask is not None and not (self.mask.dtype == torch.bool or self.mask.is_floating_point()):
            raise InvalidInputError(f"mask must be bool (True = attend) or floating-point; it is {self.mask.dtype}")
        if self.alibi is not None and (self.alibi.dim() != 1 or not self.alibi.is_floating_point()):
            raise InvalidInputError("alibi must hold one floating-point slope per query head, shape (H,)")


class Statistics(NamedTuple):
    """What the backward functions need of the softmax, float32 (float64 for float64 inputs).

    lse: (B, H, S), log of the sum of exponentials (-inf in a fully masked row). mean_t: (K, B, H, S),
    ``sum_j p_ij st_ij``, the tangent of lse; None after :func:`forward`. lse_rest: (B, H, S), what rounding took from
    lse (their sum is lse exactly), so that p can be had again from large scores; None from a backend without it.
    """

    lse: Tensor
    mean_t: Tensor | None
    lse_rest: Tensor | None = None


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums and statistics for inputs of ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _check(value: Tensor | None, name: str, shape: tuple[int, ...], like: Tensor) -> None:
    if value is None:
        return
    if tuple(value.shape) != shape:
        raise InvalidInputError(f"{name} must have shape {shape}; it has {tuple(value.shape)}")
    if value.dtype != like.dtype or value.device != like.device:
        raise InvalidInputError(
            f"{name} must be {like.dtype} on {like.device}, as q is; it is {value.dtype} on {value.device}"
        )


def check_primal(q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec) -> None:
    """q (B, H, S, D), k (B, G, T, D), v (B, G, T, E), of one dtype and device; H a multiple of G; ``spec`` fits."""
    for name, value in (("q", q), ("k", k), ("v", v)):
        if value.dim() != 4:
            raise InvalidInputError(f"{name} must have four axes (batch, heads, length, head size); not {value.dim()}")
    if q.dtype not in DTYPES:
        raise InvalidInputError(f"q must be floating-point; it is {q.dtype}")
    batch, heads, length, size = q.shape
    groups, keys = k.shape[1], k.shape[2]
    if groups == 0 or heads % groups:
        raise InvalidInputError(f"the {heads} heads of q must be a multiple of the {groups} heads of k and v")
    if size == 0 or v.shape[3] == 0:
        raise InvalidInputError("head sizes must be at least 1")
    _check(k, "k", (batch, groups, keys, size), q)
    _check(v, "v", (batch, groups, keys, v.shape[3]), q)
    for name, value in (("mask", spec.mask), ("alibi", spec.alibi)):
        if value is not None and value.device != q.device:
            raise InvalidInputError(f"spec.{name} must be on {q.device}, as q is; it is on {value.device}")
    if spec.alibi is not None and spec.alibi.shape[0] != heads:
        raise InvalidInputError(f"spec.alibi must hold {heads} slopes, one per head; it holds {spec.alibi.shape[0]}")
    if spec.mask is not None:
        try:
            spec.mask.expand(batch, heads, length, keys)
        except RuntimeError:
            raise InvalidInputError(
                f"spec.mask of shape {tuple(spec.mask.shape)} does not broadcast to {(batch, heads, length, keys)}"
            ) from None


def check_tangents(q: Tensor, k: Tensor, v: Tensor, qt: Tensor | None, kt: Tensor | None, vt: Tensor | None,
                   h: Tensor | None = None) -> int:  # fmt: skip
    """The number of tangents K, the same in all that are not None. h is (K, B, H, S, E)."""
    like_output = (*q.shape[:3], v.shape[3])
    shapes = {"qt": (qt, tuple(q.shape)), "kt": (kt, tuple(k.shape)), "vt": (vt, tuple(v.shape)), "h": (h, like_output)}
    given = [value for value, _ in shapes.values() if value is not None]
    if not given or any(value.dim() != 5 or value.shape[0] == 0 for value in given):
        raise InvalidInputError("give at least one tangent, each with a leading axis K >= 1 before the primal's")
    count = given[0].shape[0]
    for name, (value, shape) in shapes.items():
        _check(value, name, (count, *shape), q)
    return count


def check_outputs(q: Tensor, v: Tensor, o: Tensor, stats: Statistics, g: Tensor | None, ot: Tensor | None,
                  count: int, dual: bool) -> None:  # fmt: skip
    """o and g (B, H, S, E), ot (K, B, H, S, E), and statistics in the accumulator's dtype."""
    shape = (*q.shape[:3], v.shape[3])
    _check(o, "o", shape, q)
    _check(g, "g", shape, q)
    _check(ot, "ot", (count, *shape), q)
    wanted = [("stats.lse", stats.lse, tuple(q.shape[:3]))]
    if dual:
        wanted.append(("stats.mean_t", stats.mean_t, (count, *q.shape[:3])))
    if stats.lse_rest is not None:
        wanted.append(("stats.lse_rest", stats.lse_rest, tuple(q.shape[:3])))
    for name, value, expected in wanted:
        if value is None or tuple(value.shape) != expected or value.dtype != accumulator(q.dtype):
            raise InvalidInputError(f"{name} must be {accumulator(q.dtype)} {expected}, from the forward function")
