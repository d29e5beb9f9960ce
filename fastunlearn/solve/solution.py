"""What an iterative solver gives back: the answer, how good it is, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError

__all__ = ["Matrix", "Preconditioner", "Solution", "read_right", "written"]


class Matrix(Protocol):
    """A square symmetric matrix (P, P) that is only multiplied with: ``A @ V`` for V (P, k)."""

    @property
    def shape(self) -> Any: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def __matmul__(self, other: Tensor) -> Tensor: ...


class Preconditioner(Protocol):
    """An approximate inverse, symmetric and positive definite: ``solve(V)`` for V (P, k). LowRankFisher is one."""

    def solve(self, v: Tensor) -> Tensor: ...


@dataclass
class Solution:
    """``value``: x, in the shape of the right-hand side. ``residual``: the largest ``|b - A x| / |b|`` over the
    columns, computed from x itself where the status is "converged". ``residuals``: the same after each iteration, by
    the recurrence. ``iterations``; ``products``: vectors multiplied by A. ``status``: "converged", "indefinite",
    "stalled" or "iterations"; ``message`` says what to do next. ``direction`` (P,): one with
    ``d^T (A + damping I) d <= 0``, where one was met; ``curvature``: that number over ``d^T d``."""

    value: Tensor
    residual: float
    residuals: list[float] = field(default_factory=list)
    iterations: int = 0
    products: int = 0
    status: str = "iterations"
    message: str = ""
    direction: Tensor | None = None
    curvature: float | None = None

    @property
    def converged(self) -> bool:
        return self.status == "converged"


def read_right(a: Matrix, b: Tensor, tolerance: float, most: int, damping: float) -> Tensor:
    """The right-hand side as (P, k) in A's dtype, after the checks that all solvers share."""
    if not isinstance(b, Tensor) or b.dim() not in (1, 2) or b.shape[0] != a.shape[0] or 0 in b.shape:
        shape = tuple(b.shape) if isinstance(b, Tensor) else type(b).__name__
        raise InvalidInputError(f"b is {shape}; it must be ({a.shape[0]},) or ({a.shape[0]}, k)")
    if not bool(torch.isfinite(b).all()):
        raise InvalidInputError("b holds NaN or infinity")
    if not 0 < tolerance < 1:
        raise InvalidInputError(f"tolerance={tolerance!r} must lie between 0 and 1: it is relative to |b|")
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise InvalidInputError(f"max_iterations={most!r} must be an integer of at least 1")
    if not 0 <= damping < float("inf"):
        raise InvalidInputError(f"damping={damping!r} must be a finite number of at least 0")
    given = b[:, None] if b.dim() == 1 else b
    columns = given.to(a.dtype)
    lengths = columns.norm(dim=0)
    if bool(((lengths == 0) & (given != 0).any(0)).any()) or not bool(torch.isfinite(lengths).all()):
        raise InvalidInputError(
            f"b: the length of a column lies outside of the range of {a.dtype} (its largest number is "
            f"{float(given.abs().max()):.3g}): scale b, solve, and scale the answer back"
        )
    return columns


def written(x: Tensor, like: Tensor) -> Tensor:
    """x (P, k) in the shape of the right-hand side."""
    return x[:, 0] if like.dim() == 1 else x
