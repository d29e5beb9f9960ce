"""``act(gate) * up`` with all derivatives of first and second order, for any tool that differentiates."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastunlearn.ops._autograd import DualOp
from fastunlearn.ops.activation import check_kind

from . import dual_backward, dual_forward

__all__ = ["gated_mlp"]


@dataclass(frozen=True)
class _GatedMLP(DualOp):
    kind: str
    primals = 2

    def forward(self, c, x):
        return (dual_forward(*x, None, None, self.kind)[0],)

    def tangent(self, c, x, y, t):
        return (dual_forward(*x, *t, self.kind)[1],)

    def backward(self, c, x, y, h):
        return dual_backward(*x, None, None, None, h, self.kind)[2:]

    def dual_backward(self, c, x, t, y, yt, g, h):
        return dual_backward(*x, *t, g, h, self.kind)[2:]


def gated_mlp(gate: Tensor, up: Tensor, kind: str) -> Tensor:
    """``f(gate) * up``, one shape, any; kinds and dtypes as in :func:`fastunlearn.ops.gated_mlp.dual_forward`.

    Twice differentiable by reverse mode, forward mode and their mixtures, also under ``torch.func``; a third order
    raises DerivativeOrderError. Raises InvalidInputError.
    """
    check_kind(kind)
    return _GatedMLP(kind)(gate, up)
