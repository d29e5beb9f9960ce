"""Attention with all derivatives of first and second order, for any tool that differentiates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastunlearn.ops._autograd import DualOp

from . import AttentionSpec, Statistics, backward, dual_backward, dual_forward, forward

__all__ = ["attention"]


@dataclass(frozen=True, eq=False)
class _Attention(DualOp):
    """constants: mask and slopes (None where missing); primals: q, k, v.

    outputs: o, lse, whose tangent is mean_t, and lse_rest, which belongs to lse and does not move by itself.
    """

    spec: AttentionSpec
    constants = 2
    primals = 3
    outputs = 3

    def _spec(self, c) -> AttentionSpec:
        return replace(self.spec, mask=c[0], alibi=c[1])

    def forward(self, c, x):
        o, stats = forward(*x, self._spec(c))
        return o, stats.lse, torch.zeros_like(stats.lse) if stats.lse_rest is None else stats.lse_rest

    def tangent(self, c, x, y, t):
        _, ot, stats = dual_forward(*x, *t, self._spec(c))
        return ot, stats.mean_t, torch.zeros_like(stats.mean_t)

    def backward(self, c, x, y, h):
        return backward(*x, y[0], Statistics(y[1], None, y[2]), h, self._spec(c))

    def dual_backward(self, c, x, t, y, yt, g, h):
        return dual_backward(*x, *t, y[0], yt[0], Statistics(y[1], yt[1], y[2]), g, h, self._spec(c))[3:]


def attention(q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec) -> Tensor:
    """softmax attention (B, H, S, E) of q (B, H, S, D), k (B, G, T, D), v (B, G, T, E), masked as ``spec`` says.

    No S x T matrix is kept for any derivative (the reference backend apart). Twice differentiable by reverse mode,
    forward mode and their mixtures, also under ``torch.func``; a third order raises DerivativeOrderError. The mask
    and the slopes are constants. Raises InvalidInputError.
    """
    fixed = [None if value is None else value.detach() for value in (spec.mask, spec.alibi)]
    return _Attention(replace(spec, mask=None, alibi=None))(*fixed, q, k, v)
