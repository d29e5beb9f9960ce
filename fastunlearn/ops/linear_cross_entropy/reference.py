"""Linear layer and cross-entropy, with their second-order passes, in plain PyTorch: this file defines the right answer.

Whole logits are formed here (README.md has the derivation). Everything is computed in float32 (float64 for float64)
and rounded once, to the dtype of the inputs. ``rows`` without a loss (label -100, token weight 0) are dropped first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastunlearn.ops.linear.reference import accumulator

__all__ = ["Head", "backward", "dual_forward", "forward", "ggn_product", "hessian_product", "live_rows"]

IGNORED = -100


@dataclass(frozen=True)
class Head:
    """The layer z = softcap(logit_scale (x W^T + b)), with its tangents (leading axis K; None = zero)."""

    weight: Tensor
    weight_t: Tensor | None
    bias: Tensor | None
    bias_t: Tensor | None
    softcap: float | None
    logit_scale: float


def live_rows(labels: Tensor, token_weights: Tensor | None) -> Tensor:
    """The row numbers (int64, ascending) that have a loss: label not -100 and weight not 0."""
    live = labels != IGNORED
    if token_weights is not None:
        live = live & (token_weights != 0)
    return live.nonzero()[:, 0]


@dataclass(frozen=True)
class _Rows:
    """The live rows in the wide dtype: the logits and what the chain rule needs of them."""

    live: Tensor  # row numbers
    count: int  # of all rows
    x: Tensor
    xt: Tensor | None
    weight: Tensor
    weight_t: Tensor | None
    p: Tensor  # softmax
    slope: Tensor  # dz/da, a = x W^T + b
    curve: Tensor  # d2z/da2
    at: Tensor | None  # tangent of a
    zt: Tensor | None  # tangent of z
    onehot: Tensor
    weights: Tensor | None
    nll: Tensor
    nll_t: Tensor | None
    narrow: torch.dtype

    def spread(self, value: Tensor | None, axis: int = 0) -> Tensor | None:
        """Values of the live rows among zeros for the others, in the dtype of the inputs; ``axis`` counts rows."""
        if value is None:
            return None
        shape = list(value.shape)
        shape[axis] = self.count
        return value.new_zeros(shape).index_copy_(axis, self.live, value).to(self.narrow)


def _evaluate(x: Tensor, xt: Tensor | None, head: Head, labels: Tensor, token_weights: Tensor | None) -> _Rows:
    wide = accumulator(x.dtype)
    live = live_rows(labels, token_weights)
    weight = head.weight.to(wide)
    weight_t = None if head.weight_t is None else head.weight_t.to(wide)
    x, narrow, count = x[live].to(wide), x.dtype, x.shape[0]
    xt = None if xt is None else xt[:, live].to(wide)
    a = x @ weight.T
    if head.bias is not None:
        a = a + head.bias.to(wide)
    scaled = head.logit_scale * a
    if head.softcap is None:
        z, slope, curve = scaled, torch.full_like(a, head.logit_scale), torch.zeros_like(a)
    else:
        bent = torch.tanh(scaled / head.softcap)
        z, slope = head.softcap * bent, head.logit_scale * (1 - bent * bent)
        curve = -2 * bent * (1 - bent * bent) * head.logit_scale**2 / head.softcap
    terms = [] if xt is None else [xt @ weight.T]
    terms += [] if weight_t is None else [x @ weight_t.mT]
    terms += [] if head.bias_t is None else [head.bias_t.to(wide)[:, None].expand(-1, len(live), -1)]
    at = sum(terms[1:], terms[0]) if terms else None
    chosen = labels[live]
    log_p = z.log_softmax(-1)
    p, onehot = log_p.exp(), torch.zeros_like(z).scatter_(1, chosen[:, None], 1.0)
    zt = None if at is None else slope * at
    nll_t = None if zt is None else (p * zt).sum(-1) - (onehot * zt).sum(-1)
    nll = -log_p.gather(1, chosen[:, None])[:, 0]
    weights = None if token_weights is None else token_weights[live].to(wide)[:, None]
    return _Rows(live, count, x, xt, weight, weight_t, p, slope, curve, at, zt, onehot, weights, nll, nll_t, narrow)


def forward(x: Tensor, head: Head, labels: Tensor) -> Tensor:
    rows = _evaluate(x, None, head, labels, None)
    return rows.spread(rows.nll)


def dual_forward(x: Tensor, xt: Tensor | None, head: Head, labels: Tensor) -> tuple[Tensor, Tensor | None]:
    rows = _evaluate(x, xt, head, labels, None)
    return rows.spread(rows.nll), rows.spread(rows.nll_t, 1)


def backward(
    x: Tensor, head: Head, labels: Tensor, token_weights: Tensor, need_x: bool, weight_out: Tensor | None,
    bias_out: Tensor | None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    r = _evaluate(x, None, head, labels, token_weights)
    g = r.weights * (r.p - r.onehot) * r.slope
    if weight_out is not None:
        weight_out += g.T @ r.x
    if bias_out is not None:
        bias_out += g.sum(0)
    return r.spread(r.nll), r.spread(g @ r.weight) if need_x else None


def _centred(r: _Rows) -> Tensor:
    """(diag(p) - p p^T) zt, the Hessian of the loss in the logits times their tangent, per row and stream."""
    return r.p * (r.zt - (r.p * r.zt).sum(-1, keepdim=True))


def hessian_product(
    x: Tensor, xt: Tensor | None, head: Head, labels: Tensor, token_weights: Tensor, need_x: bool,
    weight_out: Tensor | None, bias_out: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    r = _evaluate(x, xt, head, labels, token_weights)
    residual = r.weights * (r.p - r.onehot)
    g = residual * r.slope
    h = r.weights * _centred(r) * r.slope + residual * r.curve * r.at
    if weight_out is not None:
        weight_out += h.mT @ r.x
        if r.xt is not None:
            weight_out += g.T @ r.xt
    if bias_out is not None:
        bias_out += h.sum(1)
    if not need_x:
        return r.spread(r.nll), r.spread(r.nll_t, 1), None, None
    hx = h @ r.weight
    if r.weight_t is not None:
        hx = hx + g @ r.weight_t
    return r.spread(r.nll), r.spread(r.nll_t, 1), r.spread(g @ r.weight), r.spread(hx, 1)


def ggn_product(
    x: Tensor, xt: Tensor | None, head: Head, labels: Tensor, token_weights: Tensor, need_x: bool,
    weight_out: Tensor | None, bias_out: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    r = _evaluate(x, xt, head, labels, token_weights)
    h = r.weights * _centred(r) * r.slope
    if weight_out is not None:
        weight_out += h.mT @ r.x
    if bias_out is not None:
        bias_out += h.sum(1)
    return r.spread(r.nll), r.spread(r.nll_t, 1), r.spread(h @ r.weight, 1) if need_x else None
