"""Lanczos recurrences of several starting vectors side by side: k vectors are multiplied at once, each keeps to itself.

    A v_j = beta_(j-1) v_(j-1) + alpha_j v_j + beta_j v_(j+1)

(solve/spectral.py has the *block* form, which finds eigenpairs of one common space; a quadrature needs them apart.)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.solve.solution import Matrix

__all__ = ["Recurrence", "count", "random_start", "recurrence"]


class Recurrence(NamedTuple):
    """``alpha`` (steps, k), ``beta`` (steps, k) float64: diagonal and the entries below it, the last one leaving the
    space. ``basis`` (steps, P, k) or None. ``products``: vectors multiplied."""

    alpha: Tensor
    beta: Tensor
    basis: Tensor | None
    products: int

    def small(self) -> Tensor:
        """The tridiagonal matrices (k, steps, steps)."""
        off = torch.diag_embed(self.beta[:-1].T, 1)
        return torch.diag_embed(self.alpha.T) + off + off.mT


def count(value: object, name: str) -> int:
    """``value`` as an integer of at least 1, or InvalidInputError naming it."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidInputError(f"{name}={value!r} must be an integer of at least 1")
    return value


def random_start(a: Matrix, k: int, seed: int) -> Tensor:
    """(P, k) standard normal, drawn on the CPU, in A's dtype and on its device."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(a.shape[0], k, generator=generator, dtype=torch.float64)
    return drawn.to(a.dtype).to(getattr(a, "device", "cpu"))


def recurrence(a: Matrix, start: Tensor, steps: int, *, keep: bool = True) -> Recurrence:
    """``steps`` steps from each column of ``start`` (P, k), not zero. ``keep``: all vectors are kept and each new one
    is made orthogonal to them twice, P x k x steps numbers; without it the last two are, and converged eigenvalues
    appear more than once. A column whose space is exhausted goes on with zeros, which have no weight."""
    v = start / start.norm(dim=0)
    before, beta = torch.zeros_like(v), v.new_zeros(v.shape[1], dtype=torch.float64)
    basis: list[Tensor] = []
    alphas, betas = [], []
    largest = torch.zeros_like(beta)
    for _ in range(min(steps, a.shape[0])):
        w = a @ v
        if not bool(torch.isfinite(w).all()):
            raise InvalidInputError("the matrix: a product with it gave NaN or infinity; check the weights and batches")
        alpha = (v.double() * w.double()).sum(0)
        w = w - v * alpha.to(v) - before * beta.to(v)
        if keep:
            basis.append(v)
            for _ in range(2):
                for one in basis:
                    w -= one * (one * w).sum(0)
        beta = w.double().norm(dim=0)
        largest = torch.maximum(largest, alpha.abs() + beta)
        ended = beta <= 10 * torch.finfo(v.dtype).eps * largest
        beta = torch.where(ended, 0.0, beta)
        alphas.append(alpha)
        betas.append(beta)
        before, v = v, torch.where(ended, 0.0, w / torch.where(ended, 1.0, beta).to(w))
    kept = torch.stack(basis) if keep else None
    return Recurrence(torch.stack(alphas), torch.stack(betas), kept, len(alphas) * start.shape[1])
