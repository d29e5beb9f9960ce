"""Binding of the C++ kernel (csrc/cpu/linear_cross_entropy.cpp): float32, float64 and bfloat16."""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.ops._dispatch import cpu_isa, extension
from fastunlearn.ops.linear.cpu import DTYPES, matrices, matrix
from fastunlearn.ops.linear.reference import accumulator

from .reference import Head, live_rows

__all__ = ["DTYPES", "LOGIT_BYTES", "backward", "dual_forward", "forward", "ggn_product", "hessian_product"]

VALUES, GRADIENT, HESSIAN, GGN = range(4)

#: The most that logits and their tangents take at a time, where half of the weight and its tangents is not more. (A few
#: tokens are always taken together.)
LOGIT_BYTES = 128 * 2**20


def _address(value: Tensor | None) -> int:
    return 0 if value is None else value.data_ptr()


def _wide(value: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if value is None else value.to(dtype).resolve_neg().contiguous()


def _sum(out: Tensor | None, axes: int, dtype: torch.dtype) -> Tensor | None:
    """Where the kernel adds up: ``out`` itself if the kernel can write it (the last ``axes`` axes in one piece), else
    zeros of the kernel's dtype."""
    if out is None:
        return None
    one = out if out.dim() == axes else out[0]
    if out.dtype == dtype and one.is_contiguous() and (out is one or out.shape[0] == 1 or out.stride(0) >= one.numel()):
        return out
    return torch.zeros(out.shape, dtype=dtype)


def _place(out: Tensor | None) -> tuple[int, int]:
    """Address, and elements from one stream to the next."""
    return (0, 0) if out is None else (out.data_ptr(), out.stride(0))


def _run(
    mode: int, x: Tensor, xt: Tensor | None, head: Head, labels: Tensor, token_weights: Tensor | None, streams: int,
    need_x: bool, weight_out: Tensor | None, bias_out: Tensor | None, isa: str | None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    wide, narrow, rows, width = accumulator(x.dtype), x.dtype, x.shape[0], x.shape[1]
    live = live_rows(labels, token_weights)
    whole = live.numel() == rows
    if not whole:
        x, labels = x.index_select(0, live), labels.index_select(0, live)
        xt = None if xt is None else xt.index_select(1, live)
        token_weights = None if token_weights is None else token_weights.index_select(0, live)
    tokens, need_g = live.numel(), need_x and mode in (GRADIENT, HESSIAN)
    nll, nll_t = torch.empty(tokens, dtype=wide), torch.empty(streams, tokens, dtype=wide)
    gx = torch.empty(tokens, width, dtype=wide) if need_g else None
    hx = torch.empty(streams, tokens, width, dtype=wide) if need_x and mode in (HESSIAN, GGN) else None
    sums = _sum(weight_out, 2, wide), _sum(bias_out, 1, wide)
    labels, token_weights = labels.contiguous(), _wide(token_weights, wide)
    bias, bias_t = _wide(head.bias, wide), _wide(head.bias_t, wide)
    extension("cpu").linear_cross_entropy(
        isa or cpu_isa(), mode, wide == torch.float64, tokens, width, head.weight.shape[0], streams,
        matrix(x), matrices(xt), matrix(head.weight), matrices(head.weight_t), labels.data_ptr(),
        _address(token_weights), _address(bias), _address(bias_t), head.softcap or 0.0, head.logit_scale,
        nll.data_ptr(), nll_t.data_ptr(), _address(gx), _address(hx), *_place(sums[0]), *_place(sums[1]),
        max(LOGIT_BYTES, (1 + streams) * head.weight.nbytes // 2), torch.get_num_threads(),
    )  # fmt: skip
    for out, added in zip((weight_out, bias_out), sums, strict=True):
        if added is not out:
            out += added

    def spread(value: Tensor | None, axis: int) -> Tensor | None:
        if value is None:
            return None
        value = value.to(narrow)
        if whole:
            return value
        shape = list(value.shape)
        shape[axis] = rows
        return value.new_zeros(shape).index_copy_(axis, live, value)

    return spread(nll, 0), spread(nll_t, 1), spread(gx, 0), spread(hx, 1)


def forward(x: Tensor, head: Head, labels: Tensor, isa: str | None = None) -> Tensor:
    return _run(VALUES, x, None, head, labels, None, 0, False, None, None, isa)[0]


def dual_forward(
    x: Tensor, xt: Tensor | None, head: Head, labels: Tensor, streams: int, isa: str | None = None
) -> tuple[Tensor, Tensor]:
    return _run(VALUES, x, xt, head, labels, None, streams, False, None, None, isa)[:2]


def backward(
    x: Tensor, head: Head, labels: Tensor, token_weights: Tensor, need_x: bool, weight_out: Tensor | None,
    bias_out: Tensor | None, isa: str | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    nll, _, gx, _ = _run(GRADIENT, x, None, head, labels, token_weights, 0, need_x, weight_out, bias_out, isa)
    return nll, gx


def hessian_product(
    x: Tensor, xt: Tensor | None, head: Head, labels: Tensor, token_weights: Tensor, streams: int, need_x: bool,
    weight_out: Tensor | None, bias_out: Tensor | None, isa: str | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    return _run(HESSIAN, x, xt, head, labels, token_weights, streams, need_x, weight_out, bias_out, isa)


def ggn_product(
    x: Tensor, xt: Tensor | None, head: Head, labels: Tensor, token_weights: Tensor, streams: int, need_x: bool,
    weight_out: Tensor | None, bias_out: Tensor | None, isa: str | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    nll, nll_t, _, hx = _run(GGN, x, xt, head, labels, token_weights, streams, need_x, weight_out, bias_out, isa)
    return nll, nll_t, hx
