"""The trace from products with the matrix: Hutch++ (Meyer, Musco, Musco & Woodruff 2021, arXiv 2010.09649).

    Q = orth(A S)        tr A = tr(Q^T A Q) + tr((I - Q Q^T) A (I - Q Q^T))

The first part is exact, and holds the large eigenvalues; the second is estimated from random signs, and is small. For
a positive semi-definite A the error falls as 1 / products instead of 1 / sqrt(products).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.solve.solution import Matrix

from ._lanczos import count

__all__ = ["Trace", "trace"]


class Trace(NamedTuple):
    """``error``: the standard error of ``value``, from the spread of its samples. ``products``: vectors multiplied."""

    value: float
    error: float
    products: int


def trace(matrix: Matrix, *, products: int = 48, seed: int = 0, at_once: int = 16) -> Trace:
    """An unbiased estimate of the trace of a symmetric ``matrix`` (anything with shape, dtype and ``@``).

    ``products``: how many vectors are multiplied, at least 6: a third finds Q, a third its own part, a third the
    rest; ``at_once`` of them in one pass. Raises InvalidInputError.
    """
    if count(products, "products") < 6:
        raise InvalidInputError(f"products={products} must be at least 6")
    count(at_once, "at_once")
    size = int(matrix.shape[0])
    third = min(products // 3, size)
    generator = torch.Generator().manual_seed(seed)

    def signs() -> Tensor:
        drawn = 2.0 * torch.randint(2, (size, third), generator=generator) - 1.0
        return drawn.to(matrix.dtype).to(getattr(matrix, "device", "cpu"))

    def times(v: Tensor) -> Tensor:
        return torch.cat([matrix @ part.contiguous() for part in v.split(at_once, 1)], 1)

    q = torch.linalg.qr(times(signs()))[0]
    inside = float((q.double() * times(q).double()).sum())
    if third == size:  # Q is everything
        return Trace(inside, 0.0, 2 * third)
    rest = signs()
    for _ in range(2):
        rest = rest - q @ (q.T @ rest)
    each = (rest.double() * times(rest).double()).sum(0)
    return Trace(inside + float(each.mean()), float(each.std()) / third**0.5, 3 * third)
