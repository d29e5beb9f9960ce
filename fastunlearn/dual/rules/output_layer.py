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
from . import elementwise, shapes
from .activation import activate
from .deferred import defer
from .linear_algebra import dual_linear
from .loss import reduced, usual_cross_entropy, weighted_sum

__all__ = ["DeferredLogits", "DeferredLoss", "Head", "weighted_tokens"]


def _parts(value: Any) -> tuple[Tensor | None, Tensor | None]:
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
        bias, bias_t = _parts(self.bias)
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
        (x, xt), (w, wt) = _parts(self.x), _parts(self.weight)
        if xt is None and wt is None and _parts(self.bias)[1] is None:
            return op.forward(x, w, self.labels, **self._options(False)), None
        return op.dual_forward(x, xt, w, wt, self.labels, **self._options(True))

    def curvature(self, ctx: Any, token_weights: Tensor) -> tuple[Tensor, Tensor]:
        """nll and nll_t; hands on the adjoints of a loss whose gradient in nll is ``token_weights``."""
        (x, xt), (w, wt) = _parts(self.x), _parts(self.weight)
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
        x, w = _parts(self.x)[0], _parts(self.weight)[0]
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

    def force(self, ctx: Any) -> Dual:
        """The value, by a sweep of its own."""
        return weighted_sum(ctx, self.head.token_losses(ctx), self.weights * self.factor)

    def met(self, ctx: Any, name: str, args: tuple, kwargs: dict) -> Any:
        """Scaling by a constant; a change of place or of dtype."""
        if name in ("float", "to", "contiguous"):
            return next(a for a in args if type(a) is Dual)
        factor = _factor(name, args)
        return None if factor is None else _scalar(replace(self, factor=self.factor * factor))

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


def _scalar(pending: DeferredLoss) -> Dual:
    return defer((), pending.weights.dtype, pending.weights.device, pending)


def weighted_tokens(ctx: Any, losses: Head | Dual, weights: Tensor) -> Dual:
    """``sum_n weights_n nll_n`` of the losses (N,) of single tokens, put off where they are."""
    if isinstance(losses, Head):
        x = _parts(losses.x)[0]
        return _scalar(DeferredLoss(losses, weights.to(torch.promote_types(x.dtype, torch.float32)), 1.0))
    return weighted_sum(ctx, losses, weights.to(losses.dtype))


def _factor(name: str, args: tuple) -> Any:
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


@dataclass(frozen=True)
class DeferredLogits:
    """``outer * tanh(inner * (x W^T + b))``, or without tanh ``inner * (x W^T + b)``, not computed yet."""

    x: Any
    weight: Any
    bias: Any
    dtype: torch.dtype
    inner: float = 1.0
    outer: float | None = None

    def value(self) -> Dual:
        """As a value of the pass."""
        x, rows = _parts(self.x)[0], _parts(self.weight)[0].shape[0]
        return defer((*x.shape[:-1], rows), self.dtype, x.device, self)

    def force(self, ctx: Any) -> Dual:
        """The whole logits."""
        z = dual_linear(ctx, self.x, self.weight, self.bias)
        if self.inner != 1.0:
            z = elementwise.multiply(ctx, torch.mul, (z, self.inner), {})
        if self.outer is not None:
            z = ctx.forced(activate(z, "tanh"))
            z = elementwise.multiply(ctx, torch.mul, (z, self.outer), {})
        return shapes.cast(ctx, torch.Tensor.to, (z, self.dtype), {})

    def met(self, ctx: Any, name: str, args: tuple, kwargs: dict) -> Any:
        """What a model does between its output layer and the loss."""
        if name == "cross_entropy":
            return self._cross_entropy(ctx, args, kwargs)
        if kwargs:
            return None
        factor = _factor(name, args)
        if factor is not None:
            if self.outer is None:
                return replace(self, inner=self.inner * float(factor)).value()
            return replace(self, outer=self.outer * float(factor)).value()
        if name == "tanh" and self.outer is None:
            return replace(self, outer=1.0).value()
        if name == "float" or (name == "to" and len(args) == 2 and isinstance(args[1], torch.dtype)):
            dtype = torch.float32 if name == "float" else args[1]
            return replace(self, dtype=dtype).value()
        if name == "contiguous" or (name == "to" and isinstance(args[1], torch.device)):
            return self.value()
        return self._moved(ctx, name, args)

    def _moved(self, ctx: Any, name: str, args: tuple) -> Any:
        """Slices and shapes of the leading axes: those of x."""
        rows, width = _parts(self.weight)[0].shape
        if name in ("view", "reshape"):
            size = tuple(args[1]) if len(args) == 2 and isinstance(args[1], (tuple, list)) else args[1:]
            if not size or size[-1] != rows:
                return None
            return self._with(ctx, torch.Tensor.reshape, (*size[:-1], width))
        if name == "__getitem__":
            where = args[1] if isinstance(args[1], tuple) else (args[1],)
            whole = slice(None)
            axes = len([i for i in where if i is not Ellipsis])
            ndim = _parts(self.x)[0].ndim
            if any(not (i is Ellipsis or isinstance(i, slice)) for i in where):
                return None
            touches_last = axes == ndim or (Ellipsis in where and where[-1] is not Ellipsis)
            if touches_last and where[-1] != whole:
                return None
            return self._with(ctx, torch.Tensor.__getitem__, where)
        return None

    def _with(self, ctx: Any, func: Any, where: tuple) -> Dual:
        if not isinstance(self.x, Dual):
            x = func(self.x, where)
        elif func is torch.Tensor.__getitem__:
            x = shapes.index(ctx, func, (self.x, where), {})
        else:
            x = shapes.reshaping(ctx, func, (self.x, where), {})
        return replace(self, x=x).value()

    def _cross_entropy(self, ctx: Any, args: tuple, kwargs: dict) -> Any:
        call = usual_cross_entropy(args, kwargs)
        ndim = _parts(self.x)[0].ndim
        if call is None or ndim != 2:
            return None
        labels, valid, reduction = call
        softcap, scale = None, self.inner
        if self.outer is not None:
            softcap, scale = self.outer, self.inner * self.outer
        head = Head(self.x, self.weight, self.bias, labels, softcap, scale)
        ctx.tokens.append((head, labels))
        if reduction == "none":
            return head.token_losses(ctx)
        dtype = torch.promote_types(self.dtype, torch.float32)
        return _scalar(DeferredLoss(head, reduced(valid, reduction, dtype), 1.0))
