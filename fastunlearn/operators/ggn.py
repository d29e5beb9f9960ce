"""G v: the generalised Gauss-Newton matrix of the loss over all batches.

    G = (1/W) sum_b w_b J_b^T (d^2 loss_b / dz^2) J_b,        z: the logits, J_b = dz / dtheta

For cross-entropy the middle is diag(p) - p p^T per token, so G is positive semi-definite, and it is the Fisher matrix
(of labels drawn from the model). One dual forward and one ordinary backward: 5/3 of a gradient.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .batches import Part
from .curvature import CurvatureOperator

__all__ = ["GGN"]


class GGN(CurvatureOperator):
    """The Gauss-Newton matrix as a linear operator; arguments as for CurvatureOperator. A ``loss`` of the user's must
    be a convex function of the logits that the engine knows (``F.cross_entropy``, ``log_softmax``, ``mse_loss``).

    >>> G = fu.GGN(model, batches)
    >>> Gv = G @ v                                          # v: (P,), (P, k), a list, or a dict of tensors
    """

    def accumulate(self, part: Part, tangents: dict[str, Tensor], out: dict[str, Tensor]) -> Any:
        return self.walk.engine.ggn(part.batch, tangents, out, part.factor, part.token_weights)
