"""Linear layer and cross-entropy on a GPU; meaning as in reference.py (float32, bfloat16, float16).

Tokens with a loss go by in chunks. Products are PyTorch's GEMM, or ops/_triton_product.py where two are summed; one
Triton kernel turns a chunk's float32 logits and tangents into losses and adjoints. Why chunks of tokens and not of the
vocabulary: the softmax needs whole rows, so with vocabulary chunks the logits and tangents would be made twice
(11 units of work and not 8). The price is that weight_out is read and written once per chunk, which is why a chunk is
as large as MEMORY_BYTES lets it be.

float16 ends at 6e-8, and a token's weight is mostly one over the number of tokens: weighted adjoints would be lost.
There the kernel gets the weights without their powers of two, which stand beside: gx and hx are multiplied by them in
float32, the rows of x and xt for weight_out by what they are of the largest, which then multiplies the sum. All exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fastunlearn.ops._recording import recording
from fastunlearn.ops._triton import Tile, interpreted, launch, with_device
from fastunlearn.ops._triton_product import pair_product

from ._triton_rows import loss_rows
from .reference import IGNORED, Head, live_rows

__all__ = ["backward", "dual_forward", "forward", "ggn_product", "hessian_product"]

#: Bytes of logits, tangents and adjoints that exist at a time; for each stream but one as much more as its tangent of
#: the weight takes. A chunk reads and writes all streams' weight_out: fewer tokens would take longer for that than for
#: their products.
MEMORY_BYTES = 768 * 2**20


def product(a: Tensor, b: Tensor) -> Tensor:
    """a b in float32: half-precision factors, float32 result."""
    return a @ b if a.dtype == torch.float32 else torch.mm(a, b, out_dtype=torch.float32)


@dataclass(frozen=True)
class _Chunk:
    """Some live tokens: their rows of x and xt, adjoints g (C, V) and h (K, C, V) of the layer's outputs.

    ``powers``: of two, float32 (C,), that are missing in the rows of g and h, and the largest of all tokens (1,)."""

    rows: Tensor
    x: Tensor
    xt: Tensor | None
    g: Tensor | None
    h: Tensor | None
    powers: tuple[Tensor, Tensor] | None

    def to_inputs(self, weight: Tensor) -> Tensor:
        """The gradient of the inputs, g W."""
        return self.g @ weight if self.powers is None else self._whole(product(self.g, weight))

    def second_to_inputs(self, first: Tensor, second: Tensor | None) -> Tensor:
        """h W (+ g Wt), of the dtype of x: (K, C, d)."""
        dtype = self.x.dtype if self.powers is None else torch.float32
        out = torch.empty(len(self.h), *self.x.shape, dtype=dtype, device=self.x.device)
        found = pair_product((self.h, first), None if second is None else (self.g, second), out)
        return found if self.powers is None else self._whole(found)

    def _whole(self, value: Tensor) -> Tensor:
        return value.mul_(self.powers[0][:, None]).to(self.x.dtype)

    def add_weight(self, out: Tensor, adjoint: Tensor, with_tangents: bool) -> None:
        """out (K, V, d) += adjoint^T x (+ g^T xt); a float64 accumulator gets a float32 product of each chunk."""
        factors, unit = [self.x, self.xt if with_tangents else None], None
        if self.powers is not None:
            powers, unit = self.powers
            share = (powers / unit)[:, None]
            factors = [None if rows is None else (rows * share).to(rows.dtype) for rows in factors]
        x, xt = factors
        first, second = (adjoint.mT, x), None if xt is None else (self.g.mT, xt)
        if out.dtype == torch.float32:
            pair_product(first, second, out, add=True, unit=unit)
        else:
            sums = torch.empty(out.shape, dtype=torch.float32, device=out.device)
            out += pair_product(first, second, sums, unit=unit)

    def add_bias(self, out: Tensor, adjoint: Tensor) -> None:
        """out (K, V) += the adjoint's sum over tokens."""
        if self.powers is None:
            out += adjoint.sum(1, dtype=out.dtype)
            return
        powers, unit = self.powers
        share = (powers / unit).to(adjoint.dtype)[:, None]
        for sums, rows in zip(out, adjoint, strict=True):
            sums += product(rows.mT, share)[:, 0] * unit


def _without_powers(weights: Tensor, dead: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers from 1 to 2 (with a sign), and the powers of two whose products with them are the weights; the smallest
    one for tokens that count for nothing, which leave the largest to the others."""
    fraction = 2 * torch.frexp(weights).mantissa
    return fraction, torch.where(dead, torch.finfo(weights.dtype).tiny, weights / fraction)


class _Sweep:
    """One pass over the live tokens; nll and nll_t are filled as it goes.

    How many tokens live is not known while a CUDA graph is recorded: then all go by, the others as zeros with weight 0
    (what they hold may be no number: padding may see nothing)."""

    def __init__(self, x: Tensor, xt: Tensor | None, head: Head, labels: Tensor, token_weights: Tensor | None):
        self.x, self.xt, self.head, self.labels = x, xt, head, labels
        self.weights = None if token_weights is None else token_weights.to(torch.float32)
        self.dead = None
        if recording(x):
            self.live = torch.arange(labels.numel(), device=x.device)
            self.dead = labels == IGNORED if token_weights is None else (labels == IGNORED) | (token_weights == 0)
            self.labels = labels.clamp_min(0)
            self.x = x.masked_fill(self.dead[:, None], 0.0)
            self.xt = None if xt is None else xt.masked_fill(self.dead[:, None], 0.0)
            self.weights = None if token_weights is None else self.weights.masked_fill(self.dead, 0.0)
        else:
            self.live = live_rows(labels, token_weights)
        tangents = [t for t in (xt, head.weight_t, head.bias_t) if t is not None]
        self.powers = None
        if self.weights is not None and x.dtype == torch.float16 and len(x):
            self.weights, self.powers = _without_powers(self.weights, (labels == IGNORED) | (self.weights == 0))
        self.streams = tangents[0].shape[0] if tangents else 0
        self.nll = x.new_zeros(x.shape[0], dtype=torch.float32)
        self.nll_t = x.new_zeros(self.streams, x.shape[0], dtype=torch.float32) if self.streams else None

    def results(self) -> tuple[Tensor, Tensor | None]:
        if self.dead is not None:
            self.nll.masked_fill_(self.dead, 0.0)
            if self.nll_t is not None:
                self.nll_t.masked_fill_(self.dead, 0.0)
        return self.nll.to(self.x.dtype), None if self.nll_t is None else self.nll_t.to(self.x.dtype)

    def chunks(self, want_g: bool, want_h: bool, curved: bool) -> Iterator[_Chunk]:
        vocabulary = self.head.weight.shape[0]
        held = 4 * (1 + self.streams) + self.x.element_size() * (int(want_g) + self.streams * int(want_h))
        room = MEMORY_BYTES + max(0, self.streams - 1) * self.head.weight.nbytes
        size = max(1, room // (held * vocabulary))
        size = size // 128 * 128 or size  # whole tiles of the GEMM
        for start in range(0, self.live.numel(), size):
            yield self._chunk(self.live[start : start + size], want_g, want_h, curved)

    def _tangent(self, x: Tensor, xt: Tensor | None) -> Tensor | None:
        """xt W^T + x Wt^T, float32 (K, C, V)."""
        head = self.head
        pairs = [] if xt is None else [(xt, head.weight.mT)]
        pairs += [] if head.weight_t is None else [(x, head.weight_t.mT)]
        if not pairs:
            return None
        out = x.new_empty(self.streams, x.shape[0], head.weight.shape[0], dtype=torch.float32)
        return pair_product(pairs[0], pairs[1] if len(pairs) > 1 else None, out)

    def _chunk(self, rows: Tensor, want_g: bool, want_h: bool, curved: bool) -> _Chunk:
        head = self.head
        x = self.x[rows]
        xt = None if self.xt is None else self.xt[:, rows]
        count, vocabulary = rows.numel(), head.weight.shape[0]
        logits, moved = product(x, head.weight.mT), self._tangent(x, xt)
        nll = logits.new_empty(count)
        nll_t = logits.new_empty(self.streams, count) if self.streams else None
        g = x.new_empty(count, vocabulary) if want_g else None
        h = x.new_empty(self.streams, count, vocabulary) if want_h else None
        arguments = {
            "a": logits, "bias": head.bias, "at": moved, "bias_t": head.bias_t, "labels": self.labels[rows],
            "weights": None if self.weights is None else self.weights[rows], "nll": nll, "nll_t": nll_t, "g": g, "h": h,
            "a_n": vocabulary, "at_k": count * vocabulary, "at_n": vocabulary,
            "bias_k": 0 if head.bias_t is None else head.bias_t.stride(0), "nll_k": count, "g_n": vocabulary,
            "h_k": count * vocabulary, "h_n": vocabulary, "V": vocabulary, "logit_scale": float(head.logit_scale),
            "softcap": float(head.softcap or 0.0), "HAS_B": head.bias is not None, "HAS_T": moved is not None,
            "HAS_BT": head.bias_t is not None, "SOFTCAP": head.softcap is not None, "WANT_G": want_g,
            "WANT_H": want_h, "CURVED": curved,
        }  # fmt: skip
        tile = Tile({"BLOCK": 64 if interpreted() else 2048}, warps=8)
        with with_device(x):
            launch(loss_rows, lambda _: (count, max(1, self.streams)), (tile,), arguments)
        self.nll[rows] = nll
        if nll_t is not None:
            self.nll_t[:, rows] = nll_t
        powers = None if self.powers is None else (self.powers[rows], self.powers.amax(0, keepdim=True))
        return _Chunk(rows, x, xt, g, h, powers)


def _contiguous(head: Head) -> Head:
    """Biases are read as plain arrays."""
    bias = None if head.bias is None else head.bias.contiguous()
    bias_t = None if head.bias_t is None else head.bias_t.contiguous()
    return Head(head.weight, head.weight_t, bias, bias_t, head.softcap, head.logit_scale)


def forward(x: Tensor, head: Head, labels: Tensor) -> Tensor:
    sweep = _Sweep(x, None, _contiguous(Head(head.weight, None, head.bias, None, head.softcap, head.logit_scale)),
                   labels, None)  # fmt: skip
    for _ in sweep.chunks(False, False, False):
        pass
    return sweep.results()[0]


def dual_forward(x: Tensor, xt: Tensor | None, head: Head, labels: Tensor) -> tuple[Tensor, Tensor | None]:
    sweep = _Sweep(x, xt, _contiguous(head), labels, None)
    for _ in sweep.chunks(False, False, False):
        pass
    return sweep.results()


def backward(
    x: Tensor, head: Head, labels: Tensor, token_weights: Tensor, need_x: bool, weight_out: Tensor | None,
    bias_out: Tensor | None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    sweep = _Sweep(x, None, _contiguous(head), labels, token_weights)
    gx = torch.zeros(x.shape, dtype=x.dtype, device=x.device) if need_x else None
    for chunk in sweep.chunks(True, False, False):
        if need_x:
            gx[chunk.rows] = chunk.to_inputs(head.weight)
        if weight_out is not None:
            chunk.add_weight(weight_out.unsqueeze(0), chunk.g.unsqueeze(0), False)
        if bias_out is not None:
            chunk.add_bias(bias_out.unsqueeze(0), chunk.g.unsqueeze(0))
    return sweep.results()[0], gx


def hessian_product(
    x: Tensor, xt: Tensor | None, head: Head, labels: Tensor, token_weights: Tensor, need_x: bool,
    weight_out: Tensor | None, bias_out: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    sweep = _Sweep(x, xt, _contiguous(head), labels, token_weights)
    gx = torch.zeros(x.shape, dtype=x.dtype, device=x.device) if need_x else None
    hx = torch.zeros(sweep.streams, *x.shape, dtype=x.dtype, device=x.device) if need_x else None
    for chunk in sweep.chunks(True, True, True):
        if need_x:
            gx[chunk.rows] = chunk.to_inputs(head.weight)
            hx[:, chunk.rows] = chunk.second_to_inputs(head.weight, head.weight_t)
        if weight_out is not None:
            chunk.add_weight(weight_out, chunk.h, True)
        if bias_out is not None:
            chunk.add_bias(bias_out, chunk.h)
    return *sweep.results(), gx, hx


def ggn_product(
    x: Tensor, xt: Tensor | None, head: Head, labels: Tensor, token_weights: Tensor, need_x: bool,
    weight_out: Tensor | None, bias_out: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    sweep = _Sweep(x, xt, _contiguous(head), labels, token_weights)
    hx = torch.zeros(sweep.streams, *x.shape, dtype=x.dtype, device=x.device) if need_x else None
    for chunk in sweep.chunks(False, True, False):
        if need_x:
            hx[:, chunk.rows] = chunk.second_to_inputs(head.weight, None)
        if weight_out is not None:
            chunk.add_weight(weight_out, chunk.h, False)
        if bias_out is not None:
            chunk.add_bias(bias_out, chunk.h)
    return *sweep.results(), hx
