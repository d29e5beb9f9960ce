"""An activation with all derivatives of first and second order, for any tool that differentiates."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastunlearn.ops._autograd import DualOp

from . import check_kind, dual_backward, dual_forward

__all__ = ["activation"]


@dataclass(frozen=True)
class _Activation(DualOp):
    kind: str

    def forward(self, c, x):
        return (dual_forward(x[0], None, self.kind)[0],)

    def tangent(self, c, x, y, t):
        return (dual_forward(x[0], t[0], self.kind)[1],)

    def backward(self, c, x, y, h):
        return (dual_backward(x[0], None, None, h, self.kind)[1],)

    def dual_backward(self, c, x, t, y, yt, g, h):
        return (dual_backward(x[0], t[0], g, h, self.kind)[1],)


def activation(x: Tensor, kind: str) -> Tensor:
    """``f(x)``, any shape; kinds and dtypes as in :func:`fastunlearn.ops.activation.dual_forward`.

    Twice differentiable by reverse mode, forward mode and their mixtures, also under ``torch.func``; a third order
    raises DerivativeOrderError. Raises InvalidInputError.
    """
    check_kind(kind)
    return _Activation(kind)(x)
