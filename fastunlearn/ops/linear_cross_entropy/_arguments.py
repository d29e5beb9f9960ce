"""Checks of the arguments of the linear + cross-entropy ops, worded for the person who called them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops._recording import recording
from fastunlearn.ops.linear._arguments import check, check_matrix, check_out, check_streams

from .reference import IGNORED, Head


def check_labels(labels: Tensor, rows: int, vocabulary: int, device: torch.device) -> Tensor:
    """Labels int64 (N,) on ``device``, each -100 or in [0, vocabulary), which is not looked at while a CUDA graph is
    recorded."""
    if labels.dtype != torch.int64 or tuple(labels.shape) != (rows,) or labels.device != device:
        raise InvalidInputError(
            f"labels are {tuple(labels.shape)} {labels.dtype} on {labels.device}; "
            f"they must be ({rows},) int64 on {device}"
        )
    outside = (labels != IGNORED) & ((labels < 0) | (labels >= vocabulary))
    if not recording(labels) and bool(outside.any()):
        raise InvalidInputError(
            f"labels hold a token outside the vocabulary of {vocabulary}; mark tokens without a loss by {IGNORED}"
        )
    return labels.detach()


def check_weights(token_weights: Tensor, x: Tensor) -> None:
    fits = tuple(token_weights.shape) == (x.shape[0],) and token_weights.is_floating_point()
    if not fits or token_weights.device != x.device:
        raise InvalidInputError(
            f"token_weights are {tuple(token_weights.shape)} {token_weights.dtype} on {token_weights.device}; "
            f"they must be ({x.shape[0]},), floating, on {x.device}"
        )


def check_call(
    x: Tensor, xt: Tensor | None, weight: Tensor, weight_t: Tensor | None, labels: Tensor, bias: Tensor | None,
    bias_t: Tensor | None, softcap: float | None, logit_scale: float, token_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Head, Tensor, int]:  # fmt: skip
    """x, xt, the head and the labels, checked and detached, and K (0: no tangent)."""
    x = check_matrix("x", x)
    rows, width = x.shape
    weight = check("weight", weight, (None, width), x)
    vocabulary = weight.shape[0]
    if vocabulary == 0:
        raise InvalidInputError("weight has no rows: a softmax needs a vocabulary")
    xt = check("xt", xt, (None, rows, width), x)
    weight_t = check("weight_t", weight_t, (None, vocabulary, width), x)
    bias, bias_t = check("bias", bias, (vocabulary,), x), check("bias_t", bias_t, (None, vocabulary), x)
    streams = check_streams(xt=xt, weight_t=weight_t, bias_t=bias_t)
    if softcap is not None and not 0 < softcap < math.inf:
        raise InvalidInputError(f"softcap={softcap!r} must be positive and finite; pass None for no cap")
    if not math.isfinite(logit_scale):
        raise InvalidInputError(f"logit_scale={logit_scale!r} must be finite")
    if token_weights is not None:
        check_weights(token_weights, x)
    head = Head(weight, weight_t, bias, bias_t, softcap, float(logit_scale))
    return x, xt, head, check_labels(labels, rows, vocabulary, x.device), streams


def check_sums(weight_out: Tensor | None, bias_out: Tensor | None, head: Head, streams: tuple[int, ...]) -> None:
    """The accumulators: (*streams, V, d) and (*streams, V)."""
    check_out("weight_out", weight_out, (*streams, *head.weight.shape), head.weight)
    check_out("bias_out", bias_out, (*streams, head.weight.shape[0]), head.weight)


def need_tangents(streams: int) -> None:
    if streams == 0:
        raise InvalidInputError("xt, weight_t and bias_t are all None: give at least one tangent")
