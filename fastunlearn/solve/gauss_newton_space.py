"""Solves with the exact Gauss-Newton matrix, begun where the Kronecker product beside the samples' Fisher ends.

    F = lambda I + M / m + (w / m) G^T G        M: Gauss-Newton matrix of m samples' summed loss; G: their gradients

Nothing of M is approximated: it is multiplied with, 4/3 of a gradient a sample each time. A few iterations of conjugate
gradients suffice, because their preconditioner is the inverse of :class:`KroneckerSampleFisher`, which stands for all
three parts: the first iterate is its own answer at the best length, and every further one minimises
``x^T F x / 2 - v^T x`` over one direction more.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError, NotPositiveDefiniteError
from fastunlearn.operators.curvature import CurvatureOperator
from fastunlearn.operators.model_state import evaluation
from fastunlearn.operators.space import Form

from .cg import cg
from .kronecker_space import KroneckerSampleFisher
from .sample_space import check_damping

__all__ = ["GaussNewtonFisher", "product_gradients"]

TOLERANCE = 1e-3
FLAT, SINGLE = Form("flat", False), Form("dict", True)


def product_gradients(samples: int, products: int) -> int:
    """What products with the Gauss-Newton matrix of so many samples cost: 4/3 of a gradient each, rounded up."""
    return math.ceil(4 * samples * products / 3)


class GaussNewtonFisher:
    """``F^-1`` of the matrix above, to ``products`` iterations.

    ``kronecker``: the preconditioner; G and w are its own. ``matrix``: M as an operator on the same parameters, at the
    weights at which F is wanted. ``damping``: lambda, above 0. ``tolerance``: of ``|v - F x| / |v|``, at which it ends
    with fewer. ``spend(gradients)`` is told what each solve cost.
    Raises InvalidInputError.
    """

    def __init__(
        self, kronecker: KroneckerSampleFisher, matrix: CurvatureOperator, damping: float, products: int,
        spend: Callable[[int], object] = lambda gradients: None, *, tolerance: float = TOLERANCE,
    ):  # fmt: skip
        if isinstance(products, bool) or not isinstance(products, int) or products < 1:
            raise InvalidInputError(f"products={products!r} must be an integer of at least 1")
        if list(matrix.space.shapes) != list(kronecker.gradients.parameters):
            raise InvalidInputError("matrix acts on other parameters than the gradients are of: give both the same")
        self.kronecker, self.matrix, self.damping = kronecker, matrix, check_damping(damping)
        self.products, self.tolerance, self._spend = products, tolerance, spend

    def solve(self, v: dict[str, Tensor]) -> dict[str, Tensor]:
        """About ``F^-1 v``, by parameter, in its shape. Raises NotPositiveDefiniteError where a product is not finite
        or rounding leaves no positive curvature."""
        space = self.matrix.space
        right = torch.cat([v[name].reshape(-1).to(space.dtype) for name in space.shapes])
        found = cg(
            _Sum(self), right, damping=self.damping, preconditioner=_Inverse(self), tolerance=self.tolerance,
            max_iterations=self.products, verify=False,
        )  # fmt: skip
        self._spend(product_gradients(len(self.kronecker.gradients), found.products))
        if found.status == "indefinite":
            raise NotPositiveDefiniteError(f"the Gauss-Newton matrix with products_damping={self.damping:g}: "
                                           f"{found.message}")  # fmt: skip
        rows, _ = space.read(found.value)
        return space.write(rows, SINGLE)  # type: ignore[return-value]


class _Sum:
    """``M / m + (w / m) G^T G`` on flat vectors (P, k)."""

    def __init__(self, fisher: GaussNewtonFisher):
        self._fisher, self.shape, self.dtype = fisher, fisher.matrix.shape, fisher.matrix.space.dtype

    def __matmul__(self, v: Tensor) -> Tensor:
        fisher, space = self._fisher, self._fisher.matrix.space
        gradients, weight = fisher.kronecker.gradients, fisher.kronecker.weight
        m = len(gradients)
        rows, _ = space.read(v)
        walk = fisher.matrix.walk
        with evaluation(walk.model, list(walk.parameters.values())):
            out = {name: tensor / m for name, tensor in fisher.matrix.matmat(rows).items()}
        if weight > 0:
            products = gradients.dot(rows) * (weight / m)
            for j in range(v.shape[1]):
                for name, tensor in gradients.weighted_gradient(products[:, j]).items():
                    out[name][j] += tensor
        return space.write(out, FLAT)  # type: ignore[return-value]


class _Inverse:
    """The preconditioner on flat vectors (P, k)."""

    def __init__(self, fisher: GaussNewtonFisher):
        self._fisher = fisher

    def solve(self, v: Tensor) -> Tensor:
        space = self._fisher.matrix.space
        rows, _ = space.read(v)
        columns = range(v.shape[1])
        solved = [self._fisher.kronecker.solve({n: tensor[j] for n, tensor in rows.items()}) for j in columns]
        return space.write({n: torch.stack([one[n] for one in solved]).to(v) for n in rows}, FLAT)  # type: ignore
