"""Binding of the C++ matrix products (csrc/cpu/gemm.cpp): float32, float64 and bfloat16 with float32 sums.

Which library computes what (README.md has the measurements): float32 and float64 are our own products. bfloat16
results come from PyTorch's oneDNN where it has bfloat16 instructions, with float32 sums and one rounding; bfloat16
weight gradients, whose sums stay in float32, are our own, on the same instructions, which take bfloat16 operands as
they are. ``FASTUNLEARN_CPU_ISA`` set means our own throughout.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from fastunlearn.errors import BackendUnavailableError
from fastunlearn.ops import _memory as fresh
from fastunlearn.ops._cpu_streams import separate
from fastunlearn.ops._dispatch import ISA_VARIABLE, cpu_isa, extension

from ._precision import MODES, mode_of
from .reference import accumulator

__all__ = ["DTYPES", "bias_product", "dual_backward", "dual_forward", "gemm", "matrices", "matrix", "weight_product"]

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}  # the numbers of csrc/cpu/kernels.h

Matrix = tuple[int, int, int, int]
Output = tuple[Tensor, bool, Sequence[tuple[Tensor, int]]]


def matrix(value: Tensor) -> Matrix:
    """The kernel's view of a matrix (rows, depth) of any strides."""
    return value.data_ptr(), value.stride(0), value.stride(1), DTYPES[value.dtype]


def matrices(value: Tensor | None) -> list[Matrix]:
    """One view per stream of (K, rows, depth); none where ``value`` is None."""
    return [] if value is None else [matrix(one) for one in value]


def gemm(rights: Sequence[Tensor], outputs: Sequence[Output], isa: str | None = None) -> None:
    """``c (+)= sum over its terms of a @ rights[i].T`` for every output (c, accumulate, [(a, i), ...]).

    c (rows, columns) float32 or float64 with contiguous rows; a (rows, depth) and rights (columns, depth) any strides.
    """
    wide, isa = outputs[0][0].dtype == torch.float64, isa or cpu_isa()
    mode = mode_of(rights[0].dtype, "cpu")
    operands = [*rights, *(a for _, _, terms in outputs for a, _ in terms)]
    able = extension("cpu").has_bfloat16_products(isa)
    if able and all(one.dtype == torch.bfloat16 for one in operands):
        mode = "bf16"  # nothing is rounded
    if mode != "float32" and not able:
        raise BackendUnavailableError(
            f"precision({mode!r}): the instruction set {isa!r} of this CPU has no bfloat16 dot products (AVX512-BF16); "
            f"use 'float32'"
        )
    extension("cpu").gemm(
        isa, wide, rights[0].shape[0], [(matrix(b), b.shape[1]) for b in rights],
        [(c.data_ptr(), c.shape[0], c.stride(0), add, [(matrix(a), i) for a, i in terms]) for c, add, terms in outputs],
        MODES[mode], torch.get_num_threads(),
    )  # fmt: skip


def _by_library(dtype: torch.dtype, isa: str | None) -> bool:
    """Whether oneDNN multiplies: bfloat16, and its instructions are there."""
    own = isa or os.environ.get(ISA_VARIABLE)
    return dtype == torch.bfloat16 and not own and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _linear(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """``a @ b.T + bias``. oneDNN reads rows of ``a`` in whole tiles of 32 columns (AMX), and multiplies by zero what is
    past the end. That is the next row, or what lies between rows, and may be NaN: zeros are put there."""
    rest = -a.shape[1] % 32
    return linear(pad(a, (0, rest))[:, : a.shape[1]] if rest else a, b, bias)


def _stacked(
    left: Sequence[Tensor | None], right: Sequence[Tensor | None], bias: Tensor | None = None
) -> Tensor | None:
    """``bias + sum of a @ b.T`` over the pairs that are there, as one product of stacked depths: rounded once."""
    pairs = [(a, b) for a, b in zip(left, right, strict=True) if a is not None and b is not None]
    if not pairs:
        return None
    a, b = zip(*pairs, strict=True)
    return _linear(a[0], b[0], bias) if len(pairs) == 1 else _linear(torch.cat(a, 1), torch.cat(b, 1), bias)


def _streams_of(value: Tensor | None, streams: int) -> Sequence[Tensor | None]:
    return [None] * streams if value is None else value.unbind(0)


def _library_forward(x, xt, weight, weight_t, bias, bias_t, streams):
    y, found = _linear(x, weight, bias), []
    tangents = zip(*(_streams_of(value, streams) for value in (xt, weight_t, bias_t)), strict=True)
    for one, moved, shift in tangents:
        product = _stacked((one, x), (weight, moved), shift)
        found.append(shift.expand_as(y) if product is None else product)
    return y, torch.stack(found) if found else None


def _library_backward(weight, weight_t, g, h, streams):
    gx = None if g is None else _linear(g, weight.T)
    if h is None and (g is None or weight_t is None):
        return gx, None
    turned = None if weight_t is None else weight_t.mT
    pairs = zip(_streams_of(h, streams), _streams_of(turned, streams), strict=True)
    return gx, torch.stack([_stacked((one, g), (weight.T, moved)) for one, moved in pairs])


def dual_forward(
    x: Tensor, xt: Tensor | None, weight: Tensor, weight_t: Tensor | None, bias: Tensor | None, bias_t: Tensor | None,
    streams: int, isa: str | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    weight_t = separate(weight_t)
    if _by_library(x.dtype, isa):
        return _library_forward(x, xt, weight, weight_t, bias, bias_t, streams)
    wide = accumulator(x.dtype)
    y = torch.empty(x.shape[0], weight.shape[0], dtype=wide)
    yt = fresh.empty((streams, *y.shape), wide) if streams else None
    rights = [weight, *([] if weight_t is None else weight_t)]
    outputs = [(y, False, [(x, 0)])]
    for k in range(streams):
        terms = [] if xt is None else [(xt[k], 0)]
        terms += [] if weight_t is None else [(x, 1 + k)]
        outputs.append((yt[k], False, terms))
    gemm(rights, outputs, isa)
    if bias is not None:
        y += bias
    if bias_t is not None:
        yt += bias_t[:, None]
    return y.to(x.dtype), None if yt is None else yt.to(x.dtype)


def dual_backward(
    weight: Tensor, weight_t: Tensor | None, g: Tensor | None, h: Tensor | None, streams: int, isa: str | None = None
) -> tuple[Tensor | None, Tensor | None]:
    weight_t = separate(weight_t)
    if _by_library(weight.dtype, isa):
        return _library_backward(weight, weight_t, g, h, streams)
    wide, rows = accumulator(weight.dtype), (g if h is None else h).shape[-2]
    rights, outputs, gx, hx = [weight.T], [], None, None
    if g is not None:
        gx = torch.empty(rows, weight.shape[1], dtype=wide)
        outputs.append((gx, False, [(g, 0)]))
    crossed = g is not None and weight_t is not None
    if h is not None or crossed:
        hx = fresh.empty((streams, rows, weight.shape[1]), wide)
        rights += [one.T for one in weight_t] if crossed else []
        for k in range(streams):
            terms = [] if h is None else [(h[k], 0)]
            terms += [(g, 1 + k)] if crossed else []
            outputs.append((hx[k], False, terms))
    gemm(rights, outputs, isa)
    return tuple(None if one is None else one.to(weight.dtype) for one in (gx, hx))


def weight_product(
    x: Tensor, xt: Tensor | None, g: Tensor | None, h: Tensor | None, out: Tensor, isa: str | None = None
) -> Tensor:
    wide = accumulator(x.dtype)
    crossed = g is not None and xt is not None
    if out.dtype != wide or 1 not in out.stride()[1:] or 0 in out.stride():
        return out.add_(weight_product(x, xt, g, h, torch.zeros(out.shape, dtype=wide), isa))
    if out.stride(2) == 1:
        rights = [x.T, *([one.T for one in xt] if crossed else [])]
        terms = [
            ([] if h is None else [(h[k].T, 0)]) + ([(g.T, 1 + k)] if crossed else []) for k in range(out.shape[0])
        ]
        gemm(rights, [(one, True, terms[k]) for k, one in enumerate(out)], isa)
        return out
    # Rows of `out` run along memory (a transposed weight): the transposed product, with the roles exchanged.
    rights = ([g.T] if crossed else []) + ([] if h is None else [one.T for one in h])
    first = len(rights) - (0 if h is None else out.shape[0])
    terms = [
        ([] if h is None else [(x.T, first + k)]) + ([(xt[k].T, 0)] if crossed else []) for k in range(out.shape[0])
    ]
    gemm(rights, [(one.T, True, terms[k]) for k, one in enumerate(out)], isa)
    return out


def bias_product(h: Tensor, out: Tensor) -> Tensor:
    """out += the sum of h over its rows: a sum that PyTorch's own kernel does at the speed of memory."""
    out += h.sum(1, dtype=out.dtype)
    return out
