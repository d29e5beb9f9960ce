"""The last linear layer and the cross-entropy as one op: first- and second-order passes without whole logits.

``z = softcap(logit_scale * (x W^T + b))``, ``nll_n = logsumexp_v z_nv - z_n,label``; the loss is
``sum_n token_weights_n nll_n`` (derivation: README.md in this folder).

x (N, d), weight (V, d), labels int64 (N,) with -100 for tokens without a loss, token_weights floating (N,); optional
bias (V,). Tangents have a leading axis of K streams (None = zero): xt (K, N, d), weight_t (K, V, d), bias_t (K, V).
softcap c > 0: ``c tanh(s / c)``. dtypes: float32, float64, bfloat16, float16; softmax statistics and sums are in
float32 (float64 for float64), results in the dtype of x, accumulators (weight_out, bias_out) in that of the sums:
they are *added to*, in place. A token with label -100 or weight 0 costs nothing and gives 0 everywhere.

Every function raises InvalidInputError (shapes, dtypes, labels) and BackendUnavailableError (a backend asked for by
name that cannot run).
"""

from __future__ import annotations

from torch import Tensor

from fastunlearn.ops._dispatch import backend_module, choose_backend

from . import cpu
from ._arguments import check_call, check_sums, need_tangents

__all__ = ["backward", "dual_forward", "forward", "ggn_product", "hessian_product"]

BACKENDS = ("reference", "cpu", "triton")


def _choose(backend: str | None, like: Tensor) -> str:
    """The backend. float16 has no CPU kernel: it is computed by the reference, and "cpu" asked for by name raises."""
    return choose_backend(backend, like.device, BACKENDS, like.dtype, {"cpu": cpu.DTYPES})


def forward(
    x: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None = None, softcap: float | None = None,
    logit_scale: float = 1.0, *, backend: str | None = None,
) -> Tensor:  # fmt: skip
    """The negative log-likelihood of every token, (N,)."""
    x, _, head, labels, _ = check_call(x, None, weight, None, labels, bias, None, softcap, logit_scale)
    if (chosen := _choose(backend, x)) == "cpu":
        return cpu.forward(x, head, labels)
    return backend_module(__package__, chosen).forward(x, head, labels)


def dual_forward(
    x: Tensor, xt: Tensor | None, weight: Tensor, weight_t: Tensor | None, labels: Tensor, bias: Tensor | None = None,
    bias_t: Tensor | None = None, softcap: float | None = None, logit_scale: float = 1.0, *, backend: str | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """nll (N,) and its directional derivative nll_t (K, N), token by token."""
    x, xt, head, labels, streams = check_call(x, xt, weight, weight_t, labels, bias, bias_t, softcap, logit_scale)
    need_tangents(streams)
    if (chosen := _choose(backend, x)) == "cpu":
        return cpu.dual_forward(x, xt, head, labels, streams)
    return backend_module(__package__, chosen).dual_forward(x, xt, head, labels)


def backward(
    x: Tensor, weight: Tensor, labels: Tensor, token_weights: Tensor, need_x: bool = True,
    weight_out: Tensor | None = None, bias_out: Tensor | None = None, bias: Tensor | None = None,
    softcap: float | None = None, logit_scale: float = 1.0, *, backend: str | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """nll (N,) and gx (N, d), the gradient of the loss; weight_out (V, d) and bias_out (V,) get theirs added."""
    x, _, head, labels, _ = check_call(
        x, None, weight, None, labels, bias, None, softcap, logit_scale, token_weights
    )  # fmt: skip
    check_sums(weight_out, bias_out, head, ())
    if (chosen := _choose(backend, x)) == "cpu":
        return cpu.backward(x, head, labels, token_weights, need_x, weight_out, bias_out)
    return backend_module(__package__, chosen).backward(x, head, labels, token_weights, need_x, weight_out, bias_out)


def hessian_product(
    x: Tensor, xt: Tensor | None, weight: Tensor, weight_t: Tensor | None, labels: Tensor, token_weights: Tensor,
    need_x: bool = True, weight_out: Tensor | None = None, bias_out: Tensor | None = None,
    bias: Tensor | None = None, bias_t: Tensor | None = None, softcap: float | None = None, logit_scale: float = 1.0,
    *, backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """nll (N,), nll_t (K, N), gx (N, d), hx (K, N, d): values, gradient and Hessian product in one sweep.

    gx is the gradient of the loss in x (the adjoint of xt), hx the adjoint of x in the dual pass; with xt, weight_t
    and bias_t the whole direction, hx, weight_out (K, V, d) and bias_out (K, V) are the parts of the Hessian-vector
    product. weight_out and bias_out are added to. need_x=False leaves gx and hx out (None).
    """
    x, xt, head, labels, streams = check_call(
        x, xt, weight, weight_t, labels, bias, bias_t, softcap, logit_scale, token_weights
    )
    need_tangents(streams)
    check_sums(weight_out, bias_out, head, (streams,))
    if (chosen := _choose(backend, x)) == "cpu":
        return cpu.hessian_product(x, xt, head, labels, token_weights, streams, need_x, weight_out, bias_out)
    module = backend_module(__package__, chosen)
    return module.hessian_product(x, xt, head, labels, token_weights, need_x, weight_out, bias_out)


def ggn_product(
    x: Tensor, xt: Tensor | None, weight: Tensor, weight_t: Tensor | None, labels: Tensor, token_weights: Tensor,
    need_x: bool = True, weight_out: Tensor | None = None, bias_out: Tensor | None = None,
    bias: Tensor | None = None, bias_t: Tensor | None = None, softcap: float | None = None, logit_scale: float = 1.0,
    *, backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """nll (N,), nll_t (K, N) and hx (K, N, d): the Gauss-Newton product with the Hessian of the loss in z.

    ``h_z = w (diag(p) - p p^T) zt``; hx and the additions to weight_out (K, V, d) and bias_out (K, V) are its
    ordinary backward. The soft-cap counts as part of the network.
    """
    x, xt, head, labels, streams = check_call(
        x, xt, weight, weight_t, labels, bias, bias_t, softcap, logit_scale, token_weights
    )
    need_tangents(streams)
    check_sums(weight_out, bias_out, head, (streams,))
    if (chosen := _choose(backend, x)) == "cpu":
        return cpu.ggn_product(x, xt, head, labels, token_weights, streams, need_x, weight_out, bias_out)
    module = backend_module(__package__, chosen)
    return module.ggn_product(x, xt, head, labels, token_weights, need_x, weight_out, bias_out)
