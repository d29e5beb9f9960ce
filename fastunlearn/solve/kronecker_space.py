"""EK-FAC and the exact Fisher of the samples' sums, together.

    F = B + (w / m) G^T G        B: K-FAC or EK-FAC of the m samples, damped (kfac.py); G: their gradients, by row

B has full rank but is an approximation; G^T G is exact but has rank m. The sum keeps what either knows: with a large w
a step ``F^-1 v`` is nearly orthogonal to every sample's gradient, so that no sample's loss moves to first order, and
among those steps it is the one that moves the predictions least as B sees them. By Woodbury, in sample space:

    F^-1 v = u - B^-1 G^T (m / w I + G B^-1 G^T)^-1 G u        u = B^-1 v

G B^-1 G^T is summed from products of formed gradients in their own precision, so that its eigenvalues are known to
about FLOOR of its mean diagonal; that much is added to m / w.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.sample_gradients import SampleGradients

from .kfac import KFAC
from .sample_space import cholesky

__all__ = ["KroneckerSampleFisher"]

FLOOR = 1e-6


class KroneckerSampleFisher:
    """``F^-1`` of the matrix above. ``kronecker``: B. ``gradients``: G, of the same parameters, at the weights at which
    F is wanted. ``weight``: w, at least 0; with 0, F is B.

    Raises InvalidInputError, and NotPositiveDefiniteError where G B^-1 G^T is not, within FLOOR.
    """

    def __init__(self, kronecker: KFAC, gradients: SampleGradients, weight: float):
        if not (isinstance(weight, int | float) and 0 <= weight < math.inf):
            raise InvalidInputError(f"weight={weight!r} must be a finite number of at least 0")
        self.kronecker, self.gradients, self.weight = kronecker, gradients, float(weight)
        self._factor: Tensor | None = None
        if weight == 0:
            return
        gram = kronecker.gram(gradients)
        gram.diagonal().add_(len(gradients) / self.weight + FLOOR * gram.diagonal().mean())
        mend = "raise damping, or lower the exact Fisher's weight (exact_weight)"
        self._factor = cholesky(gram, "the samples' Fisher beside EK-FAC", mend)

    def solve(self, v: dict[str, Tensor]) -> dict[str, Tensor]:
        """``F^-1 v`` by parameter, in its shape."""
        inside = self.kronecker.solve(v)
        if self._factor is None:
            return inside
        products = self.gradients.dot({name: tensor[None] for name, tensor in inside.items()})
        on_samples = torch.cholesky_solve(products, self._factor)[:, 0]
        taken = self.kronecker.solve(self.gradients.weighted_gradient(on_samples))
        return {name: tensor - taken[name].to(tensor) for name, tensor in inside.items()}
