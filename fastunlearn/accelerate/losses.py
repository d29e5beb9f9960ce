"""log_softmax and cross-entropy of logits with all derivatives of first and second order.

With p = softmax(z) and the tangent t of z:

    log_softmax    yt = t - <p, t>           J^T g = g - p sum(g)             its derivative: -p (t - <p, t>) sum(g)
    nll            yt = <p, t> - t_label     J^T g = g (p - e_label)          its derivative: g p (t - <p, t>)

PyTorch 2.13's own ``log_softmax`` fails in reverse over forward mode (an exp in place in its jvp).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastunlearn.ops._autograd import DualOp, Streams
from fastunlearn.ops._dual_arguments import accumulator

__all__ = ["cross_entropy", "log_softmax"]


def _given(value: Tensor | None) -> Tensor:
    """What these ops always have: their logits, labels and outputs."""
    assert value is not None
    return value


def _dot(p: Tensor, t: Tensor) -> Tensor:
    return (p * t).sum(-1, keepdim=True)


@dataclass(frozen=True)
class _LogSoftmax(DualOp):
    """Over the last axis."""

    def forward(self, c: Streams, x: Streams) -> tuple[Tensor, ...]:
        return (torch.log_softmax(_given(x[0]), -1),)

    def tangent(self, c: Streams, x: Streams, y: Streams, t: Streams) -> tuple[Tensor, ...]:
        along = _given(t[0])
        return (along - _dot(_given(y[0]).exp(), along),)

    def backward(self, c: Streams, x: Streams, y: Streams, h: Tensor) -> tuple[Tensor]:
        return (h - _given(y[0]).exp() * h.sum(-1, keepdim=True),)

    def dual_backward(
        self, c: Streams, x: Streams, t: Streams, y: Streams, yt: Streams, g: Tensor, h: Tensor | None
    ) -> Streams:
        found = None if h is None else self.backward(c, x, y, h)[0]
        if t[0] is not None:
            bent = _given(yt[0]) * (_given(y[0]).exp() * -g.sum(-1, keepdim=True))
            found = bent if found is None else found + bent
        return (found,)


@dataclass(frozen=True)
class _TokenLoss(DualOp):
    """nll (N,) of logits (N, V). constants: labels (N,), and which of them count, (N,) bool; outputs: nll, lse."""

    constants = 2
    outputs = 2

    def forward(self, c: Streams, x: Streams) -> tuple[Tensor, ...]:
        labels, counted, z = _given(c[0]), _given(c[1]), _given(x[0])
        lse = torch.logsumexp(z.to(accumulator(z.dtype)), -1)
        own = z.gather(-1, labels[:, None]).squeeze(-1)
        return ((lse - own) * counted).to(z.dtype), lse

    def tangent(self, c: Streams, x: Streams, y: Streams, t: Streams) -> tuple[Tensor, ...]:
        labels, counted, along = _given(c[0]), _given(c[1]), _given(t[0])
        mean = (self._softmax(x, y) * along).sum(-1)
        own = along.gather(-1, labels[:, None].expand(len(along), -1, 1)).squeeze(-1)
        return ((mean - own) * counted).to(_given(x[0]).dtype), mean

    def backward(self, c: Streams, x: Streams, y: Streams, h: Tensor) -> tuple[Tensor]:
        labels, counted = _given(c[0]), _given(c[1])
        h = (h * counted).unsqueeze(-1).to(_given(y[1]).dtype)
        found = self._softmax(x, y) * h
        found.scatter_add_(-1, labels[:, None].expand(len(h), -1, 1), -h)
        return (found.to(_given(x[0]).dtype),)

    def dual_backward(
        self, c: Streams, x: Streams, t: Streams, y: Streams, yt: Streams, g: Tensor, h: Tensor | None
    ) -> Streams:
        found = None if h is None else self.backward(c, x, y, h)[0]
        if t[0] is not None:
            bent = (t[0] - _given(yt[1]).unsqueeze(-1)).mul_(self._softmax(x, y))
            bent = bent.mul_((g * _given(c[1])).unsqueeze(-1)).to(_given(x[0]).dtype)
            found = bent if found is None else found.add_(bent)
        return (found,)

    def _softmax(self, x: Streams, y: Streams) -> Tensor:
        return (_given(x[0]) - _given(y[1]).unsqueeze(-1)).exp_()


def log_softmax(x: Tensor, dim: int) -> Tensor:
    """``log_softmax`` over ``dim``, any floating dtype; twice differentiable in every way."""
    if dim in (-1, x.dim() - 1):
        return _LogSoftmax()(x)
    return _LogSoftmax()(x.movedim(dim, -1)).movedim(-1, dim)


def cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int, reduction: str) -> Tensor:
    """``F.cross_entropy`` of logits (N, V) with labels int64 (N,); reduction "mean", "sum" or "none"."""
    counted = labels != ignore_index
    nll = _TokenLoss()(labels.where(counted, 0), counted, logits)
    if reduction == "none":
        return nll
    return nll.sum() / counted.sum() if reduction == "mean" else nll.sum()
