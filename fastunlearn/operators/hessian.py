"""H v: the Hessian of the loss over all batches.

    H = (1/W) sum_b w_b d^2 loss_b / dtheta^2,        H v = d/dtheta (g . v)

One dual pass per batch: the model runs on pairs (value, tangent), the scalar that comes out is g . v, and its ordinary
gradient is H v. About 8/3 of a gradient for one vector, (2 + 6k)/3 for k at once.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .batches import Part
from .curvature import CurvatureOperator

__all__ = ["Hessian"]


class Hessian(CurvatureOperator):
    """The Hessian as a linear operator; arguments as for CurvatureOperator.

    >>> H = fu.Hessian(model, batches)
    >>> Hv = H @ v                                          # v: (P,), (P, k), a list, or a dict of tensors
    >>> scipy.sparse.linalg.eigsh(H.to_scipy(), k=5)
    """

    def accumulate(self, part: Part, tangents: dict[str, Tensor], out: dict[str, Tensor]) -> Any:
        return self.walk.engine.hessian(part.batch, tangents, out, part.factor, part.token_weights)
