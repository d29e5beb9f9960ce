"""Rotary position embedding (README.md). It is linear, so one function serves primal, tangents and adjoints."""

from __future__ import annotations

from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops._cpu_streams import choose
from fastunlearn.ops._dispatch import backend_module
from fastunlearn.ops._dual_arguments import check_float

__all__ = ["apply"]

BACKENDS = ("reference", "cpu", "triton")


def apply(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool = False,
    inverse: bool = False,
    *,
    backend: str | None = None,
) -> Tensor:
    """``x * cos + rotate_half(x) * sin`` on the first R channels; the other D - R pass through.

    x (..., S, D): any leading axes, among them K. cos, sin: (S, R), or (B, S, R), whose B meets x's fourth axis from
    the end, (..., B, H, S, D), or the third where x is (B, S, D); R even, at most D. They hold all R channels, as
    Hugging Face models make them, and the channels of a pair may differ. ``interleaved``: pairs are channels
    (2i, 2i+1), not (i, i + R/2). ``inverse``: the transpose, which is the adjoint (and the inverse, if cos^2 + sin^2
    = 1). Returns a contiguous tensor of x's dtype; arithmetic in float32 (float64 for float64).
    Raises InvalidInputError and BackendUnavailableError.
    """
    check_float(x, "x")
    check_float(cos, "cos")
    check_float(sin, "sin")
    if x.dim() < 2:
        raise InvalidInputError(f"x must be (..., S, D); its shape is {tuple(x.shape)}")
    width = cos.shape[-1] if cos.dim() else 0
    if cos.shape != sin.shape or cos.dim() not in (2, 3) or width % 2 or not 0 < width <= x.shape[-1]:
        raise InvalidInputError(
            f"cos and sin must both be (S, R) or (B, S, R), R even and at most D = {x.shape[-1]}; "
            f"they are {tuple(cos.shape)} and {tuple(sin.shape)}"
        )
    if cos.shape[-2] != x.shape[-2]:
        raise InvalidInputError(f"cos has {cos.shape[-2]} positions, and x has {x.shape[-2]}")
    if cos.dim() == 3:
        batch = x.shape[-4] if x.dim() > 3 else x.shape[0] if x.dim() == 3 else None
        if batch is None or cos.shape[0] not in (1, batch):
            raise InvalidInputError(f"cos of shape {tuple(cos.shape)} does not go with x of shape {tuple(x.shape)}")
    if cos.device != x.device or sin.device != x.device:
        raise InvalidInputError(f"cos is on {cos.device}, sin on {sin.device}, x on {x.device}: move them together")
    chosen = choose(backend, x, BACKENDS)
    return backend_module(__package__, chosen).apply(x, cos, sin, interleaved, inverse)
