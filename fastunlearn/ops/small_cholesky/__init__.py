"""Solves ``(A + shift I) x = rhs`` for many small positive definite matrices at once (README.md)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops._dispatch import backend_module, choose_backend, extension, why_not_on

__all__ = ["solve"]

BACKENDS = ("reference", "cuda")


def solve(a: Tensor, rhs: Tensor, shift: float = 0.0, *, backend: str | None = None) -> tuple[Tensor, Tensor]:
    """``(x (B, m, r), info int32 (B,))`` for a (B, m, m), of which the lower half counts, and rhs (B, m, r).

    float32 or float64. info is 0, or 1 + the number of the first pivot that is not positive: that system's x is then
    its rhs, unsolved. Raises InvalidInputError (shapes, dtypes) and BackendUnavailableError (a backend asked for by
    name that cannot run, or "cuda" for a matrix that does not fit its shared memory).
    """
    if a.dim() != 3 or a.shape[1] != a.shape[2] or a.shape[1] < 1 or a.dtype not in (torch.float32, torch.float64):
        raise InvalidInputError(f"a must be (B, m, m) float32 or float64; it is {tuple(a.shape)} {a.dtype}")
    if rhs.dim() != 3 or rhs.shape[:2] != a.shape[:2] or rhs.shape[2] < 1:
        raise InvalidInputError(f"rhs must be ({a.shape[0]}, {a.shape[1]}, r); it is {tuple(rhs.shape)}")
    if rhs.dtype != a.dtype or rhs.device != a.device:
        raise InvalidInputError(f"rhs is {rhs.dtype} on {rhs.device}, a is {a.dtype} on {a.device}: make them alike")
    chosen = choose_backend(backend, a.device, BACKENDS if _fits(a) else ("reference",))
    return backend_module(__package__, chosen).solve(a.detach(), rhs.detach(), float(shift))


def _fits(a: Tensor) -> bool:
    """Whether the CUDA kernel takes matrices of this size; True where it can't run, which choose_backend explains."""
    if not a.is_cuda or why_not_on("cuda", a.device):
        return True
    with torch.cuda.device(a.device):  # needs a GPU
        return a.shape[1] <= extension("cuda").small_cholesky_most(1 if a.dtype == torch.float64 else 0)
