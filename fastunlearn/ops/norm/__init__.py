"""RMSNorm and LayerNorm, and the two kernels that every order of automatic differentiation needs (README.md).

x is (N, d); a tangent has a leading axis K and may be None for zero; y = xhat * (offset + weight) [+ bias], where
xhat = x / sqrt(mean(x^2) + eps) (RMSNorm), or the same of x - mean(x) (LayerNorm). weight None stands for the factor
1, whatever ``offset`` is. dtypes: float32, float64, bfloat16, float16, one for all; arithmetic in float32 (float64
for float64). Results are contiguous, of x's dtype, and None where they are zero because an input was None.
All raise InvalidInputError (shapes, dtypes) and BackendUnavailableError (a backend asked for that cannot run).
"""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops._cpu_streams import choose
from fastunlearn.ops._dispatch import backend_module
from fastunlearn.ops._dual_arguments import check_float, check_same, check_tangents

__all__ = ["layer_norm_dual_backward", "layer_norm_dual_forward", "rms_norm_dual_backward", "rms_norm_dual_forward"]

BACKENDS = ("reference", "cpu", "triton")


def rms_norm_dual_forward(
    x: Tensor,
    xt: Tensor | None,
    weight: Tensor | None,
    weight_t: Tensor | None,
    eps: float,
    offset: float = 0.0,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """``(y (N, d), yt (K, N, d))`` of RMSNorm; yt is None where xt and weight_t are. offset 1 is Gemma's norm."""
    _check(x, weight, None, {"xt": (xt, x.shape), "weight_t": (weight_t, x.shape[-1:])}, eps)
    return _backend(backend, x).dual_forward(x, xt, weight, weight_t, None, None, eps, offset, False)


def rms_norm_dual_backward(
    x: Tensor,
    xt: Tensor | None,
    weight: Tensor | None,
    weight_t: Tensor | None,
    g: Tensor | None,
    h: Tensor | None,
    eps: float,
    offset: float = 0.0,
    *,
    need_weight: bool = True,
    backend: str | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """``(gx (N, d), hx (K, N, d), weight_h (K, d))``.

    g (N, d): adjoint of yt; h (K, N, d): adjoint of y. weight_h, the sum over rows of ``h xhat + g xhat_t``, is None
    with ``need_weight=False`` or where weight is None. The statistics are computed anew from x.
    """
    _check(x, weight, g, {"xt": (xt, x.shape), "weight_t": (weight_t, x.shape[-1:]), "h": (h, x.shape)}, eps)
    need_weight = need_weight and weight is not None
    args = (x, xt, weight, weight_t, g, h, eps, offset, False, need_weight, False)
    return _backend(backend, x).dual_backward(*args)[:3]


def layer_norm_dual_forward(
    x: Tensor,
    xt: Tensor | None,
    weight: Tensor | None,
    weight_t: Tensor | None,
    bias: Tensor | None,
    bias_t: Tensor | None,
    eps: float,
    offset: float = 0.0,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """``(y (N, d), yt (K, N, d))`` of LayerNorm; yt is None where xt, weight_t and bias_t are."""
    channels = x.shape[-1:]
    tangents = {"xt": (xt, x.shape), "weight_t": (weight_t, channels), "bias_t": (bias_t, channels)}
    _check(x, weight, None, tangents, eps)
    check_same(bias, "bias", x, "x", channels)
    if bias is None and bias_t is not None:
        raise InvalidInputError("bias_t was given without bias; leave it out, or give both")
    return _backend(backend, x).dual_forward(x, xt, weight, weight_t, bias, bias_t, eps, offset, True)


def layer_norm_dual_backward(
    x: Tensor,
    xt: Tensor | None,
    weight: Tensor | None,
    weight_t: Tensor | None,
    g: Tensor | None,
    h: Tensor | None,
    eps: float,
    offset: float = 0.0,
    *,
    need_weight: bool = True,
    need_bias: bool = True,
    backend: str | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """``(gx (N, d), hx (K, N, d), weight_h (K, d), bias_h (K, d))``.

    As :func:`rms_norm_dual_backward`; bias_h, the sum of h over rows, is None with ``need_bias=False`` or without h.
    """
    _check(x, weight, g, {"xt": (xt, x.shape), "weight_t": (weight_t, x.shape[-1:]), "h": (h, x.shape)}, eps)
    need_weight = need_weight and weight is not None
    args = (x, xt, weight, weight_t, g, h, eps, offset, True, need_weight, need_bias)
    return _backend(backend, x).dual_backward(*args)


def _backend(requested: str | None, x: Tensor) -> ModuleType:
    return backend_module(__package__, choose(requested, x, BACKENDS))


def _check(x: Tensor, weight: Tensor | None, g: Tensor | None, tangents: dict, eps: float) -> None:
    check_float(x, "x")
    if x.dim() != 2 or x.shape[1] < 1:
        raise InvalidInputError(f"x must be (N, d) with d >= 1; its shape is {tuple(x.shape)}: flatten leading axes")
    if not eps >= 0:
        raise InvalidInputError(f"eps must not be negative; it is {eps}")
    check_same(weight, "weight", x, "x", x.shape[-1:])
    check_same(g, "g", x, "x", x.shape)
    check_tangents(x, "x", tangents)
    if weight is None and tangents["weight_t"][0] is not None:
        raise InvalidInputError("weight_t was given without weight; leave it out, or give both")
