"""``out += sum_t w_t g_t x_t^T``: a linear layer's weight gradient with a weight per token (README.md)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops._dispatch import backend_module, choose_backend

__all__ = ["weighted_gradient"]

BACKENDS = ("reference", "cuda", "triton")
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def weighted_gradient(
    x: Tensor, g: Tensor, weights: Tensor | None, out: Tensor, *, backend: str | None = None
) -> Tensor:
    """Adds to ``out`` (d_out, d_in) in place, and returns it.

    x (N, d_in), g (N, d_out) of one dtype (float32, float64, bfloat16, float16); weights (N,) in the dtype of out, or
    None for ones; out float32 (float64 for float64). Raises InvalidInputError and BackendUnavailableError.
    """
    if x.dim() != 2 or g.dim() != 2 or x.shape[0] != g.shape[0] or x.dtype != g.dtype or x.dtype not in FLOATS:
        raise InvalidInputError(
            f"x and g must be (N, d_in) and (N, d_out) of one floating dtype; they are {tuple(x.shape)} {x.dtype} "
            f"and {tuple(g.shape)} {g.dtype}"
        )
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    wanted = {"out": (out, (g.shape[1], x.shape[1])), "weights": (weights, (x.shape[0],)), "g": (g, tuple(g.shape))}
    for name, (value, shape) in wanted.items():
        if value is None:
            continue
        if tuple(value.shape) != shape or value.device != x.device or (name != "g" and value.dtype != dtype):
            raise InvalidInputError(
                f"{name} must be {shape} {dtype} on {x.device}; it is {tuple(value.shape)} {value.dtype} "
                f"on {value.device}"
            )
    chosen = choose_backend(backend, x.device, BACKENDS, x.dtype)
    return backend_module(__package__, chosen).weighted_gradient(x.detach(), g.detach(), weights, out)
