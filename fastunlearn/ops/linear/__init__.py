"""The dual pass of a linear layer, y = x W^T + b (derivation: README.md in this folder).

x (N, in) and weight (out, in) are any strides; leading axes of x are flattened by the caller. Tangents have a leading
axis of K streams: xt (K, N, in), weight_t (K, out, in), bias_t (K, out). In the reverse sweep g (N, out) is the
adjoint of the tangent output (the ordinary gradient) and h (K, N, out) the adjoint of the output. A tangent or an
adjoint that is None is zero. dtypes: float32, float64, bfloat16, float16; sums are in float32 (float64 for float64).

Every function raises InvalidInputError (shapes, dtypes) and BackendUnavailableError (a backend asked for by name
that cannot run), and returns contiguous tensors.
"""

from __future__ import annotations

from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops._dispatch import backend_module, choose_backend

from . import cpu
from ._arguments import check, check_matrix, check_out, check_streams
from ._precision import mode_of, precision

__all__ = ["bias_product", "dual_backward", "dual_forward", "precision", "weight_product"]

BACKENDS = ("reference", "cpu", "triton")


def _choose(backend: str | None, like: Tensor) -> str:
    """The backend. float16 has no CPU kernel: it is computed by the reference, and "cpu" asked for by name raises."""
    chosen = choose_backend(backend, like.device, BACKENDS, like.dtype, {"cpu": cpu.DTYPES})
    mode_of(like.dtype, chosen)
    return chosen


def dual_forward(
    x: Tensor,
    xt: Tensor | None,
    weight: Tensor,
    weight_t: Tensor | None,
    bias: Tensor | None = None,
    bias_t: Tensor | None = None,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """``y = x W^T + b`` (N, out) and ``yt = xt W^T + x Wt^T + bt`` (K, N, out).

    yt is None where every tangent is None.
    """
    x = check_matrix("x", x)
    rows, width = x.shape
    weight = check("weight", weight, (None, width), x)
    height = weight.shape[0]
    xt = check("xt", xt, (None, rows, width), x)
    weight_t = check("weight_t", weight_t, (None, height, width), x)
    bias, bias_t = check("bias", bias, (height,), x), check("bias_t", bias_t, (None, height), x)
    streams = check_streams(xt=xt, weight_t=weight_t, bias_t=bias_t)
    if (chosen := _choose(backend, x)) == "cpu":
        return cpu.dual_forward(x, xt, weight, weight_t, bias, bias_t, streams)
    return backend_module(__package__, chosen).dual_forward(x, xt, weight, weight_t, bias, bias_t)


def dual_backward(
    weight: Tensor, weight_t: Tensor | None, g: Tensor | None, h: Tensor | None, *, backend: str | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """``gx = g W`` (N, in) and ``hx = h W + g Wt`` (K, N, in).

    With g None this is the ordinary backward of K streams (gx is None); hx is None where nothing contributes to it.
    """
    weight = check_matrix("weight", weight)
    height, width = weight.shape
    weight_t = check("weight_t", weight_t, (None, height, width), weight)
    g = check("g", g, (None, height), weight)
    h = check("h", h, (None, None if g is None else g.shape[0], height), weight)
    if g is None and h is None:
        raise InvalidInputError("g and h are both None: give at least one")
    streams = check_streams(weight_t=weight_t, h=h)
    if (chosen := _choose(backend, weight)) == "cpu":
        return cpu.dual_backward(weight, weight_t, g, h, streams)
    return backend_module(__package__, chosen).dual_backward(weight, weight_t, g, h)


def weight_product(
    x: Tensor,
    xt: Tensor | None,
    g: Tensor | None,
    h: Tensor | None,
    out: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """``out += h^T x + g^T xt`` in place, and returns out: (K, out, in), float32 (float64), any strides."""
    x = check_matrix("x", x)
    rows, width = x.shape
    xt = check("xt", xt, (None, rows, width), x)
    g = check("g", g, (rows, None), x)
    h = check("h", h, (None, rows, None if g is None else g.shape[1]), x)
    streams = check_streams(xt=xt, h=h)
    if h is None and (g is None or xt is None):
        return out
    height = g.shape[1] if h is None else h.shape[2]
    check_out("out", out, (streams, height, width), x)
    if (chosen := _choose(backend, x)) == "cpu":
        return cpu.weight_product(x, xt, g, h, out)
    return backend_module(__package__, chosen).weight_product(x, xt, g, h, out)


def bias_product(h: Tensor, out: Tensor, *, backend: str | None = None) -> Tensor:
    """``out += sum over the rows of h`` in place, and returns out: h (K, N, out), out (K, out) float32 (float64)."""
    check("h", h, (None, None, None), h)
    check_out("out", out, (h.shape[0], h.shape[2]), h)
    if (chosen := _choose(backend, h)) == "cpu":
        return cpu.bias_product(h.detach(), out)
    return backend_module(__package__, chosen).bias_product(h.detach(), out)
