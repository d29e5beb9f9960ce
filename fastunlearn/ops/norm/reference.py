"""RMSNorm and LayerNorm and their duals in plain PyTorch. This file defines truth; README.md derives it.

One normalisation serves both: with ``center`` means are taken off (LayerNorm), without it they are not (RMSNorm).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.ops._dual_arguments import accumulator


def _mean(value: Tensor) -> Tensor:
    return value.mean(-1, keepdim=True)


def _wide(value: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if value is None else value.to(dtype)


def _rows(value: Tensor | None) -> Tensor | None:
    """A per-channel tangent (K, d) so that it meets rows (K, N, d)."""
    return None if value is None else value.unsqueeze(-2)


def _add(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _narrow(value: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if value is None else value.to(dtype).contiguous()


class _Normalised:
    """xh = r (x - mean), r = (mean square + eps)^-1/2, and the Jacobian J = r (I - [1 1^T / d] - xh xh^T / d)."""

    def __init__(self, x: Tensor, xt: Tensor | None, eps: float, center: bool):
        self.center = center
        middle = self.centered(x)
        self.r = torch.rsqrt(_mean(middle * middle) + eps)
        self.xh = middle * self.r
        self.m = self.xht = None
        if xt is not None:
            self.m = _mean(self.xh * xt)
            self.xht = self.r * (self.centered(xt) - self.m * self.xh)

    def centered(self, value: Tensor) -> Tensor:
        return value - _mean(value) if self.center else value

    def jacobian(self, u: Tensor) -> Tensor:
        """J u; J is symmetric, so this is the tangent and the adjoint."""
        return self.r * (self.centered(u) - self.xh * _mean(self.xh * u))

    def jacobian_dot(self, u: Tensor) -> Tensor:
        """(dJ/dx . xt) u."""
        c = _mean(self.xh * u)
        return -self.r * (
            self.r * self.m * (self.centered(u) - c * self.xh) + self.xht * c + self.xh * _mean(self.xht * u)
        )


def dual_forward(
    x: Tensor,
    xt: Tensor | None,
    weight: Tensor | None,
    weight_t: Tensor | None,
    bias: Tensor | None,
    bias_t: Tensor | None,
    eps: float,
    offset: float,
    center: bool,
) -> tuple[Tensor, Tensor | None]:
    """y = xh (offset + weight) [+ bias] and its tangent; x (N, d), xt (K, N, d), weight and bias (d,)."""
    wide = accumulator(x.dtype)
    n = _Normalised(x.to(wide), _wide(xt, wide), eps, center)
    scale = 1.0 if weight is None else offset + weight.to(wide)
    y = n.xh * scale
    if bias is not None:
        y = y + bias.to(wide)
    yt = None if xt is None else n.xht * scale
    if weight_t is not None:
        yt = _add(yt, n.xh * _rows(weight_t.to(wide)))
    if bias_t is not None:
        yt = _add(yt, _rows(bias_t.to(wide)).expand(-1, *x.shape).contiguous())
    return y.to(x.dtype), _narrow(yt, x.dtype)


def dual_backward(
    x: Tensor,
    xt: Tensor | None,
    weight: Tensor | None,
    weight_t: Tensor | None,
    g: Tensor | None,
    h: Tensor | None,
    eps: float,
    offset: float,
    center: bool,
    need_weight: bool = True,
    need_bias: bool = True,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """(gx, hx, weight_h, bias_h); g (N, d), h (K, N, d). None counts as zero, and stands for what is not needed."""
    wide = accumulator(x.dtype)
    n = _Normalised(x.to(wide), _wide(xt, wide), eps, center)
    scale = 1.0 if weight is None else offset + weight.to(wide)
    gx = hx = weight_h = bias_h = None
    if h is not None:
        h = h.to(wide)
        hx, weight_h, bias_h = n.jacobian(scale * h), (h * n.xh).sum(-2), h.sum(-2)
    if g is not None:
        g = g.to(wide)
        gx = n.jacobian(scale * g)
        if weight_t is not None:
            hx = _add(hx, n.jacobian(_rows(weight_t.to(wide)) * g))
        if xt is not None:
            hx = _add(hx, n.jacobian_dot(scale * g))
            weight_h = _add(weight_h, (g * n.xht).sum(-2))
    weight_h, bias_h = weight_h if need_weight else None, bias_h if need_bias else None
    return tuple(_narrow(value, x.dtype) for value in (gx, hx, weight_h, bias_h))
