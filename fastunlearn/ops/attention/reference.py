"""Attention and its dual in plain PyTorch, with S x T matrices in memory. Defines truth; see README.md.

Everything is computed anew from the inputs: statistics are given out, never taken in. Half-precision inputs are
widened to float32 first. Heads of k and v are repeated for the query heads that share them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._arguments import AttentionSpec, Statistics, accumulator


def _wide(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if x is None else x.to(accumulator(x.dtype)) for x in tensors]


def _for_heads(x: Tensor | None, heads: int) -> Tensor | None:
    """(..., G, T, D) -> (..., H, T, D)."""
    return None if x is None else x.repeat_interleave(heads // x.shape[-3], dim=-3)


def _from_heads(x: Tensor, groups: int) -> Tensor:
    """The adjoint of :func:`_for_heads`: sums the heads that share a key head."""
    return x.unflatten(-3, (groups, -1)).sum(-3)


def _sum(*terms: Tensor | None, like: Tensor) -> Tensor:
    """The sum of the terms that are there; zeros shaped as ``like`` where none is."""
    total = torch.zeros_like(like)
    for term in terms:
        if term is not None:
            total = total + term
    return total


def _product(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else a @ b


def _transposed(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.mT


def scores(q: Tensor, k: Tensor, spec: AttentionSpec) -> tuple[Tensor, Tensor]:
    """s (B, H, S, T), -inf where a query may not attend, and ``u = tanh(scale q.k / softcap)`` (0 without a cap)."""
    s = spec.scale * (q @ k.mT)
    u = torch.zeros_like(s)
    if spec.softcap is not None:
        u = torch.tanh(s / spec.softcap)
        s = spec.softcap * u
    i = torch.arange(q.shape[-2], device=q.device)[:, None]
    j = torch.arange(k.shape[-2], device=q.device)[None, :]
    if spec.alibi is not None:
        s = s + spec.alibi.to(s.dtype)[:, None, None] * (j - i)
    if spec.mask is not None and spec.mask.dtype != torch.bool:
        s = s + spec.mask.to(s.dtype)
    live = torch.ones((), dtype=torch.bool, device=q.device).expand(s.shape[-2:])
    if spec.causal:
        live = live & (j <= i)
    if spec.window is not None:
        live = live & (j > i - spec.window)
    if spec.mask is not None and spec.mask.dtype == torch.bool:
        live = live & spec.mask
    return s.masked_fill(~live, -torch.inf), u


def probabilities(s: Tensor) -> Tensor:
    """softmax(s); zeros in a row where no key may be attended to."""
    dead = (s == -torch.inf).all(-1, keepdim=True)
    return torch.softmax(s.masked_fill(dead, 0), -1).masked_fill(dead, 0)


def _tangent_scores(q: Tensor, k: Tensor, qt: Tensor | None, kt: Tensor | None, u: Tensor, spec: AttentionSpec,
                    like: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The tangent of s; the slope of the cap and its tangent. ``like``: a zero tangent (K, B, H, S, T)."""
    before = spec.scale * _sum(_product(qt, k.mT), _product(q, _transposed(kt)), like=like)
    slope = 1 - u * u
    slope_t = like if spec.softcap is None else -2 * u * slope * before / spec.softcap
    return slope * before, slope, slope_t


def forward(q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec) -> tuple[Tensor, Statistics]:
    dtype, heads = q.dtype, q.shape[1]
    q, k, v = _wide(q, _for_heads(k, heads), _for_heads(v, heads))
    s, _ = scores(q, k, spec)
    return (probabilities(s) @ v).to(dtype), Statistics(torch.logsumexp(s, -1), None)


def dual_forward(q: Tensor, k: Tensor, v: Tensor, qt: Tensor | None, kt: Tensor | None, vt: Tensor | None,
                 spec: AttentionSpec, count: int) -> tuple[Tensor, Tensor, Statistics]:  # fmt: skip
    dtype, heads = q.dtype, q.shape[1]
    q, qt, k, kt, v, vt = _wide(q, qt, *(_for_heads(x, heads) for x in (k, kt, v, vt)))
    s, u = scores(q, k, spec)
    st, _, _ = _tangent_scores(q, k, qt, kt, u, spec, s.new_zeros(count, *s.shape))
    p = probabilities(s)
    mean_t = (p * st).sum(-1)
    pt = p * (st - mean_t[..., None])
    o = p @ v
    ot = _sum(pt @ v, _product(p, vt), like=o.new_zeros(count, *o.shape))
    return o.to(dtype), ot.to(dtype), Statistics(torch.logsumexp(s, -1), mean_t)


def backward(q: Tensor, k: Tensor, v: Tensor, h: Tensor, spec: AttentionSpec) -> tuple[Tensor, Tensor, Tensor]:
    dtype, heads, groups = q.dtype, q.shape[1], k.shape[1]
    q, k, v, h = _wide(q, _for_heads(k, heads), _for_heads(v, heads), h)
    s, u = scores(q, k, spec)
    p = probabilities(s)
    hp = h @ v.mT
    hs = p * (hp - (p * hp).sum(-1, keepdim=True)) * (1 - u * u)
    hq, hk, hv = spec.scale * (hs @ k), spec.scale * (hs.mT @ q), p.mT @ h
    return hq.to(dtype), _from_heads(hk, groups).to(dtype), _from_heads(hv, groups).to(dtype)


def dual_backward(q: Tensor, k: Tensor, v: Tensor, qt: Tensor | None, kt: Tensor | None, vt: Tensor | None,
                  g: Tensor, h: Tensor | None, spec: AttentionSpec, count: int) -> tuple[Tensor, ...]:  # fmt: skip
    dtype, heads, groups = q.dtype, q.shape[1], k.shape[1]
    q, qt, g, h = _wide(q, qt, g, h)
    k, kt, v, vt = _wide(*(_for_heads(x, heads) for x in (k, kt, v, vt)))
    s, u = scores(q, k, spec)
    zero = s.new_zeros(count, *s.shape)
    st, slope, slope_t = _tangent_scores(q, k, qt, kt, u, spec, zero)
    p = probabilities(s)
    pt = p * (st - (p * st).sum(-1, keepdim=True))
    # The ordinary backward of g, and its tangent in the direction (qt, kt, vt, h).
    gp = g @ v.mT
    gp_t = _sum(_product(h, v.mT), _product(g, _transposed(vt)), like=zero)
    centred = gp - (p * gp).sum(-1, keepdim=True)
    centred_t = gp_t - (pt * gp + p * gp_t).sum(-1, keepdim=True)
    gs = p * centred
    hs = pt * centred + p * centred_t
    gs, hs = slope * gs, slope * hs + slope_t * gs
    gq, gk, gv = spec.scale * (gs @ k), spec.scale * (gs.mT @ q), p.mT @ g
    hq = spec.scale * _sum(hs @ k, _product(gs, kt), like=gq.new_zeros(count, *gq.shape))
    hk = spec.scale * _sum(hs.mT @ q, _product(gs.mT, qt), like=gk.new_zeros(count, *gk.shape))
    hv = _sum(_product(p.mT, h), pt.mT @ g, like=gv.new_zeros(count, *gv.shape))
    gk, gv, hk, hv = (_from_heads(x, groups) for x in (gk, gv, hk, hv))
    return tuple(x.to(dtype) for x in (gq, gk, gv, hq, hk, hv))
