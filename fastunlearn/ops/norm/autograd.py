"""RMSNorm and LayerNorm with all derivatives of first and second order, for any tool that differentiates."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastunlearn.ops._autograd import DualOp

from . import (
    layer_norm_dual_backward,
    layer_norm_dual_forward,
    rms_norm_dual_backward,
    rms_norm_dual_forward,
)

__all__ = ["layer_norm", "rms_norm"]


@dataclass(frozen=True)
class _Norm(DualOp):
    """primals: x (..., d), then weight and bias where they are there."""

    eps: float
    offset: float
    center: bool
    weight: bool
    bias: bool

    @property
    def primals(self) -> int:
        return 1 + self.weight + self.bias

    def _named(self, values, lead: int) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """(x as rows, weight, bias) of primals or tangents, None where missing."""
        x = values[0]
        rows = None if x is None else x.reshape(*x.shape[:lead], -1, x.shape[-1])
        return rows, values[1] if self.weight else None, values[-1] if self.bias else None

    def _dual_forward(self, x, t):
        rows, weight, bias = self._named(x, 0)
        rows_t, weight_t, bias_t = self._named(t, 1) if t is not None else (None, None, None)
        if self.center:
            return layer_norm_dual_forward(rows, rows_t, weight, weight_t, bias, bias_t, self.eps, self.offset)
        return rms_norm_dual_forward(rows, rows_t, weight, weight_t, self.eps, self.offset)

    def _dual_backward(self, x, t, g, h):
        rows, weight, _ = self._named(x, 0)
        rows_t, weight_t, _ = self._named(t, 1) if t is not None else (None, None, None)
        streams = [None if v is None else v.reshape(*v.shape[:n], *rows.shape) for v, n in ((g, 0), (h, 1))]
        args = (rows, rows_t, weight, weight_t, *streams, self.eps, self.offset)
        if self.center:
            _, hx, weight_h, bias_h = layer_norm_dual_backward(*args, need_bias=self.bias)
        else:
            _, hx, weight_h = rms_norm_dual_backward(*args)
            bias_h = None
        hx = None if hx is None else hx.view(hx.shape[0], *x[0].shape)
        return (hx, *[weight_h] * self.weight, *[bias_h] * self.bias)

    def forward(self, c, x):
        return (self._dual_forward(x, None)[0].view(x[0].shape),)

    def tangent(self, c, x, y, t):
        yt = self._dual_forward(x, t)[1]
        return (yt.view(yt.shape[0], *x[0].shape),)

    def backward(self, c, x, y, h):
        return self._dual_backward(x, None, None, h)

    def dual_backward(self, c, x, t, y, yt, g, h):
        return self._dual_backward(x, t, g, h)


def rms_norm(x: Tensor, weight: Tensor | None, eps: float, offset: float = 0.0) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * (offset + weight)`` over the last axis; x (..., d), weight (d,) or None.

    Twice differentiable by reverse mode, forward mode and their mixtures, also under ``torch.func``; a third order
    raises DerivativeOrderError. dtypes as in :mod:`fastunlearn.ops.norm`. Raises InvalidInputError.
    """
    given = [weight] * (weight is not None)
    return _Norm(eps, offset, False, weight is not None, False)(x, *given)


def layer_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, offset: float = 0.0
) -> Tensor:
    """LayerNorm over the last axis; as :func:`rms_norm`, of x less its mean, plus bias (d,) where it is given."""
    given = [value for value in (weight, bias) if value is not None]
    return _Norm(eps, offset, True, weight is not None, bias is not None)(x, *given)
