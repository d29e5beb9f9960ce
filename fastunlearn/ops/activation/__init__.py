"""Elementwise activations and the two kernels that every order of automatic differentiation needs (README.md)."""

from __future__ import annotations

from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops._cpu_streams import choose
from fastunlearn.ops._dispatch import backend_module
from fastunlearn.ops._dual_arguments import check_float, check_same, check_tangents

from .reference import KINDS

__all__ = ["dual_backward", "dual_forward"]

BACKENDS = ("reference", "cpu", "triton")


def check_kind(kind: str) -> None:
    """Raises InvalidInputError where ``kind`` is no activation that the ops know."""
    if kind not in KINDS:
        raise InvalidInputError(f"kind={kind!r} is unknown; use one of {', '.join(KINDS)}")


def dual_forward(
    x: Tensor, xt: Tensor | None, kind: str, *, backend: str | None = None
) -> tuple[Tensor, Tensor | None]:
    """``y = f(x)`` and ``yt = f'(x) xt``.

    x: any shape; xt (K, *x.shape) or None for zero (then yt is None); float32, float64, bfloat16 or float16,
    computed in float32 (float64 for float64). kind: silu, gelu (exact), gelu_tanh, quick_gelu, relu, relu2 (squared),
    sigmoid, tanh, softplus. Returns contiguous tensors of x's dtype. Raises InvalidInputError and
    BackendUnavailableError.
    """
    check_kind(kind)
    check_float(x, "x")
    check_tangents(x, "x", {"xt": (xt, x.shape)})
    chosen = choose(backend, x, BACKENDS)
    return backend_module(__package__, chosen).dual_forward(x, xt, kind)


def dual_backward(
    x: Tensor,
    xt: Tensor | None,
    g: Tensor | None,
    h: Tensor | None,
    kind: str,
    *,
    backend: str | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """``gx = f' g`` (x.shape) and ``hx = f' h + f'' xt g`` (K, *x.shape).

    g (x.shape): adjoint of the tangent output; h (K, *x.shape): adjoint of the output. xt, g, h may be None for zero;
    a result is None where it is zero for that reason. Raises as :func:`dual_forward`.
    """
    check_kind(kind)
    check_float(x, "x")
    check_same(g, "g", x, "x", x.shape)
    check_tangents(x, "x", {"xt": (xt, x.shape), "h": (h, x.shape)})
    chosen = choose(backend, x, BACKENDS)
    return backend_module(__package__, chosen).dual_backward(x, xt, g, h, kind)
