"""The output layer and the cross-entropy, put off until both are known: the logits are never whole.

``z = cap tanh(scale (x W^T + b) / cap)`` (cap None: no tanh) stays a description (x, W, b, scale, cap) while the model
casts, slices or flattens its leading axes, scales it or caps it. Its cross-entropy stays one too, ``factor * sum_n w_n
nll_n``, until the end of the forward pass, when the adjoint of the loss is known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fastunlearn.ops import linear_cross_entropy as op

from ..values import Dual
from .deferred import defer
from .loss import weighted_sum

__all__ = ["DeferredLoss", "Head", "constant_factor", "parts", "scalar", "weighted_tokens"]


def parts(value: Any) -> tuple[Tensor | None, Tensor | None]:
    """A value and its tangents; a constant has none."""
    return (value.primal, value.tangent) if isinstance(value, Dual) else (value, None)


@dataclass(frozen=True)
class Head:
    """The output layer on hidden states (N, d) with the labels (N,) of a cross-entropy: what the op takes."""

    x: Any
    weight: Any
    bias: Any
    labels: Tensor
    softcap: float | None
    scale: float

    def _options(self, tangents: bool) -> dict:
        bias, bias_t = parts(self.bias)
        options = {"bias": bias, "softcap": self.softcap, "logit_scale": self.scale}
        return {**options, "bias_t": bias_t} if tangents else options

    def _outs(self, row: int | None) -> dict:
        found = {}
        for name, value in (("weight_out", self.weight), ("bias_out", self.bias)):
            out = value.slot.out if isinstance(value, Dual) else None
            found[name] = out if out is None or row is None else out[row]
        return found

    def forward(self) -> tuple[Tensor, Tensor | None]:
        """nll (N,) and, where there are tangents, nll_t (K, N)."""
        (x, xt), (w, wt) = parts(self.x), parts(self.weight)
        if xt is None and wt is None and parts(self.bias)[1] is None:
            return op.forward(x, w, self.labels, **self._options(False)), None
        return op.dual_forward(x, xt, w, wt, self.labels, **self._options(True))

    def curvature(self, ctx: Any, token_weights: Tensor) -> tuple[Tensor, Tensor]:
        """nll and nll_t; hands on the adjoints of a loss whose gradient in nll is ``token_weights``."""
        (x, xt), (w, wt) = parts(self.x), parts(self.weight)
        needs = isinstance(self.x, Dual)
        options = {**self._options(True), **self._outs(None)}
        if ctx.one_stream:
            nll, nll_t, hx = op.ggn_product(x, xt, w, wt, self.labels, token_weights, needs, **options)
            gx = None
        else:
            nll, nll_t, gx, hx = op.hessian_product(x, xt, w, wt, self.labels, token_weights, needs, **options)
        if needs:
            self.x.slot.add(gx, hx, fresh=True)
        return nll, nll_t

    def one_stream(self, h: Tensor) -> Tensor:
        """nll; hands on the adjoints h (K, N) of nll alone."""
        x, w = parts(self.x)[0], parts(self.weight)[0]
        needs = isinstance(self.x, Dual)
        rows = []
        for k, token_weights in enumerate(h):
            options = {**self._options(False), **self._outs(k)}
            nll, gx = op.backward(x, w, self.labels, token_weights.contiguous(), needs, **options)
            rows.append(gx)
        if needs:
            self.x.slot.add(None, torch.stack(rows), fresh=True)
        return nll

    def token_losses(self, ctx: Any) -> Dual:
        """nll as a value of the pass."""
        nll, nll_t = self.forward()

        def backward(g: Tensor | None, h: Tensor | None) -> None:
            if g is not None:
                self.curvature(ctx, g)
            if h is not None:
                self.one_stream(h)

        return ctx.record(nll, nll_t, backward)


@dataclass(frozen=True)
class DeferredLoss:
    """``factor * sum_n weights_n nll_n``, not computed yet."""

    head: Head
    weights: Tensor
    factor: Any

    def copied(self) -> Dual:
        """The same loss as another object."""
        return scalar(self)

    def force(self, ctx: Any) -> Dual:
        """The value, by a sweep of its own."""
        return weighted_sum(ctx, self.head.token_losses(ctx), self.weights * self.factor)

    def met(self, ctx: Any, name: str, args: tuple, kwargs: dict) -> Any:
        """Scaling by a constant; a change of place or of dtype."""
        if name in ("float", "to", "contiguous"):
            return next(a for a in args if type(a) is Dual)
        factor = constant_factor(name, args)
        return None if factor is None else scalar(replace(self, factor=self.factor * factor))

    def finish(self, ctx: Any, weight: float) -> tuple[Tensor, Tensor | None]:
        """The loss and its tangents; in a pass with a reverse sweep also the adjoints of ``weight * loss``."""
        weights = self.weights * self.factor
        scaled = weights * weight
        if ctx.tape is None:
            nll, nll_t = self.head.forward()
        elif ctx.has_tangents:
            nll, nll_t = self.head.curvature(ctx, scaled)
        else:
            nll, nll_t = self.head.one_stream(scaled[None]), None
        total = torch.dot(nll.double(), weights.double())
        return total, None if nll_t is None else nll_t.double() @ weights.double()


def scalar(pending: DeferredLoss) -> Dual:
    """As a value of the pass."""
    return defer((), pending.weights.dtype, pending.weights.device, pending)


def weighted_tokens(ctx: Any, losses: Head | Dual, weights: Tensor) -> Dual:
    """``sum_n weights_n nll_n`` of the losses (N,) of single tokens, put off where they are."""
    if isinstance(losses, Head):
        x = parts(losses.x)[0]
        return scalar(DeferredLoss(losses, weights.to(torch.promote_types(x.dtype, torch.float32)), 1.0))
    return weighted_sum(ctx, losses, weights.to(losses.dtype))


def constant_factor(name: str, args: tuple) -> Any:
    """The constant that a value is multiplied with, or None."""
    if name not in ("mul", "__mul__", "__rmul__", "div", "true_divide", "__truediv__") or len(args) != 2:
        return None
    first = type(args[0]) is Dual
    other = args[1] if first else args[0]
    if isinstance(other, Dual) or not isinstance(other, (int, float, Tensor)):
        return None
    if isinstance(other, Tensor) and other.ndim:
        return None
    if "div" in name:
        return 1.0 / other if first else None
    return other
