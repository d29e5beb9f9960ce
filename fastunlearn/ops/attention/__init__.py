"""Softmax attention and its dual: values with tangents forward, ordinary adjoints with their tangents backward.

Shapes: q (B, H, S, D), k (B, G, T, D), v (B, G, T, E), H a multiple of G; tangents and their adjoints have a leading
axis K. Any strides (a last axis that is not contiguous is copied). dtypes: float32, float64, bfloat16, float16; sums
and statistics in float32 (float64 for float64). A fully masked row gives o = 0 and takes part in no gradient.
What is masked and how scores are made: :class:`AttentionSpec`. Derivation: README.md in this folder.

All raise InvalidInputError (shapes, dtypes) and BackendUnavailableError (a backend asked for by name that cannot run).
"""

from __future__ import annotations

from torch import Tensor

from fastunlearn.ops._dispatch import backend_module, choose_backend

from . import reference
from ._arguments import AttentionSpec, Statistics, check_outputs, check_primal, check_tangents

__all__ = ["AttentionSpec", "Statistics", "backward", "dual_backward", "dual_forward", "forward"]

BACKENDS = ("reference", "cpu", "triton")


def forward(q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec, *,
            backend: str | None = None) -> tuple[Tensor, Statistics]:  # fmt: skip
    """``o = softmax(s) v`` (B, H, S, E) and :class:`Statistics` (lse (B, H, S); no mean_t)."""
    check_primal(q, k, v, spec)
    if (chosen := choose_backend(backend, q.device, BACKENDS, q.dtype)) != "reference":
        return backend_module(__package__, chosen).forward(q, k, v, spec)
    return reference.forward(q, k, v, spec)


def dual_forward(q: Tensor, k: Tensor, v: Tensor, qt: Tensor | None, kt: Tensor | None, vt: Tensor | None,
                 spec: AttentionSpec, *, backend: str | None = None) -> tuple[Tensor, Tensor, Statistics]:  # fmt: skip
    """o (B, H, S, E), its tangents ot (K, B, H, S, E), and :class:`Statistics` (lse (B, H, S), mean_t (K, B, H, S)).

    qt (K, B, H, S, D), kt (K, B, G, T, D), vt (K, B, G, T, E); None is zero, and not all may be None.
    """
    check_primal(q, k, v, spec)
    count = check_tangents(q, k, v, qt, kt, vt)
    if (chosen := choose_backend(backend, q.device, BACKENDS, q.dtype)) != "reference":
        return backend_module(__package__, chosen).dual_forward(q, k, v, qt, kt, vt, spec, count)
    return reference.dual_forward(q, k, v, qt, kt, vt, spec, count)


def backward(q: Tensor, k: Tensor, v: Tensor, o: Tensor, stats: Statistics, h: Tensor, spec: AttentionSpec, *,
             backend: str | None = None) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Adjoints of q, k, v for K adjoints h (K, B, H, S, E) of o: hq (K, B, H, S, D), hk (K, B, G, T, D), hv.

    o, stats: from :func:`forward` or :func:`dual_forward` (of which only lse is used).
    """
    check_primal(q, k, v, spec)
    count = check_tangents(q, k, v, None, None, None, h)
    check_outputs(q, v, o, stats, None, None, count, dual=False)
    if (chosen := choose_backend(backend, q.device, BACKENDS, q.dtype)) != "reference":
        return backend_module(__package__, chosen).backward(q, k, v, o, stats, h, spec, count)
    return reference.backward(q, k, v, h, spec)


def dual_backward(q: Tensor, k: Tensor, v: Tensor, qt: Tensor | None, kt: Tensor | None, vt: Tensor | None,
                  o: Tensor, ot: Tensor, stats: Statistics, g: Tensor, h: Tensor | None, spec: AttentionSpec, *,
                  backend: str | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """gq, gk, gv (adjoints of the tangents qt, kt, vt) and hq, hk, hv (adjoints of q, k, v, leading axis K).

    g (B, H, S, E): adjoint of ot, the ordinary gradient of o. h (K, B, H, S, E): adjoint of o, None is zero.
    o, ot, stats: from :func:`dual_forward` with the same arguments.
    """
    check_primal(q, k, v, spec)
    count = check_tangents(q, k, v, qt, kt, vt, ot if h is None else h)
    check_outputs(q, v, o, stats, g, ot, count, dual=True)
    if (chosen := choose_backend(backend, q.device, BACKENDS, q.dtype)) != "reference":
        return backend_module(__package__, chosen).dual_backward(q, k, v, qt, kt, vt, o, ot, stats, g, h, spec, count)
    return reference.dual_backward(q, k, v, qt, kt, vt, g, h, spec, count)
