"""The main functions of the ops as ``torch.ops.fastunlearn.*``, with fake kernels, for traced and compiled programs.

Import this module to register them. All take and give plain tensors: every tangent is given, nothing is None in a
result, and no gradient is recorded through them. They *are* the derivatives: wrap a pair (dual forward, dual backward)
to differentiate. The backend is chosen as everywhere (:mod:`fastunlearn.ops._dispatch`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import attention, gated_mlp, linear, linear_cross_entropy, norm, rope
from ._dual_arguments import accumulator

__all__ = ["NAMES"]

_SPEC = "float scale, bool causal=False, int? window=None, float? softcap=None, Tensor? mask=None, Tensor? alibi=None"
NAMES: list[str] = []  #: of the registered operators, without the namespace


def _register(schema: str, function, fake) -> None:
    name = schema.partition("(")[0]
    operator = torch.library.custom_op(f"fastunlearn::{name}", function, mutates_args=(), schema=schema[len(name) :])
    operator.register_fake(fake)
    NAMES.append(name)


def _fresh(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device)


def _like(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(_fresh(t, *t.shape) for t in tensors)


def _attention_forward(q, k, v, qt, kt, vt, scale, causal=False, window=None, softcap=None, mask=None, alibi=None):
    spec = attention.AttentionSpec(scale, causal, window, softcap, mask, alibi)
    o, ot, stats = attention.dual_forward(q, k, v, qt, kt, vt, spec)
    rest = torch.zeros_like(stats.lse) if stats.lse_rest is None else stats.lse_rest
    return o, ot, stats.lse, stats.mean_t, rest


def _attention_forward_fake(q, k, v, qt, kt, vt, scale, causal=False, window=None, softcap=None, mask=None, alibi=None):
    shape, wide = (*q.shape[:3], v.shape[3]), accumulator(q.dtype)
    statistics = [_fresh(q, *lead, *q.shape[:3], dtype=wide) for lead in ((), qt.shape[:1], ())]
    return _fresh(q, *shape), _fresh(q, qt.shape[0], *shape), *statistics


def _attention_backward(q, k, v, qt, kt, vt, o, ot, lse, mean_t, lse_rest, g, h, scale, causal=False, window=None,
                        softcap=None, mask=None, alibi=None):  # fmt: skip
    spec = attention.AttentionSpec(scale, causal, window, softcap, mask, alibi)
    stats = attention.Statistics(lse, mean_t, lse_rest)
    return attention.dual_backward(q, k, v, qt, kt, vt, o, ot, stats, g, h, spec)


def _hessian(x, xt, weight, weight_t, labels, token_weights):
    wide = accumulator(x.dtype)
    weight_h = torch.zeros(xt.shape[0], *weight.shape, dtype=wide, device=x.device)
    return *linear_cross_entropy.hessian_product(
        x, xt, weight, weight_t, labels, token_weights, True, weight_h
    ), weight_h  # fmt: skip


def _hessian_fake(x, xt, weight, weight_t, labels, token_weights):
    n, k = x.shape[0], xt.shape[0]
    sums = _fresh(x, k, *weight.shape, dtype=accumulator(x.dtype))
    return _fresh(x, n), _fresh(x, k, n), *_like(x, xt), sums


_PAIR = "(Tensor, Tensor)"
_SIX = ", ".join(["Tensor"] * 6)
_register(
    f"attention_dual_forward(Tensor q, Tensor k, Tensor v, Tensor qt, Tensor kt, Tensor vt, {_SPEC})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _attention_forward, _attention_forward_fake,
)  # fmt: skip
_register(
    "attention_dual_backward(Tensor q, Tensor k, Tensor v, Tensor qt, Tensor kt, Tensor vt, Tensor o, Tensor ot,"
    f" Tensor lse, Tensor mean_t, Tensor lse_rest, Tensor g, Tensor h, {_SPEC}) -> ({_SIX})",
    _attention_backward, lambda q, k, v, qt, kt, vt, *_, **__: _like(q, k, v, qt, kt, vt),
)  # fmt: skip
_register(
    "rms_norm_dual_forward(Tensor x, Tensor xt, Tensor weight, Tensor weight_t, float eps, float offset=0.0)"
    f" -> {_PAIR}",
    norm.rms_norm_dual_forward, lambda x, xt, *_, **__: _like(x, xt),
)  # fmt: skip
_register(
    "rms_norm_dual_backward(Tensor x, Tensor xt, Tensor weight, Tensor weight_t, Tensor g, Tensor h, float eps,"
    " float offset=0.0) -> (Tensor, Tensor, Tensor)",
    norm.rms_norm_dual_backward, lambda x, xt, weight, weight_t, *_, **__: _like(x, xt, weight_t),
)  # fmt: skip
_register(
    f"gated_mlp_dual_forward(Tensor gate, Tensor up, Tensor gate_t, Tensor up_t, str kind) -> {_PAIR}",
    gated_mlp.dual_forward, lambda gate, up, gate_t, up_t, kind: _like(gate, gate_t),
)  # fmt: skip
_register(
    "gated_mlp_dual_backward(Tensor gate, Tensor up, Tensor gate_t, Tensor up_t, Tensor g, Tensor h, str kind)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    gated_mlp.dual_backward, lambda gate, up, gate_t, up_t, g, h, kind: _like(gate, up, gate_t, up_t),
)  # fmt: skip
_register(
    "rope(Tensor x, Tensor cos, Tensor sin, bool interleaved=False, bool inverse=False) -> Tensor",
    rope.apply, lambda x, *_, **__: _like(x)[0],
)  # fmt: skip
_register(
    f"linear_dual_forward(Tensor x, Tensor xt, Tensor weight, Tensor weight_t) -> {_PAIR}",
    linear.dual_forward,
    lambda x, xt, weight, weight_t: (
        _fresh(x, x.shape[0], weight.shape[0]), _fresh(x, xt.shape[0], x.shape[0], weight.shape[0])
    ),
)  # fmt: skip
_register(
    f"linear_dual_backward(Tensor weight, Tensor weight_t, Tensor g, Tensor h) -> {_PAIR}",
    linear.dual_backward,
    lambda weight, weight_t, g, h: (
        _fresh(g, g.shape[0], weight.shape[1]), _fresh(g, h.shape[0], g.shape[0], weight.shape[1])
    ),
)  # fmt: skip
_register(
    "linear_cross_entropy_hessian(Tensor x, Tensor xt, Tensor weight, Tensor weight_t, Tensor labels,"
    " Tensor token_weights) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _hessian, _hessian_fake,
)  # fmt: skip
