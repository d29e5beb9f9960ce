"""Embedding: rows of a weight, picked by index. Linear in the weight.

The row ``padding_idx`` has no gradient in torch, so it is a constant here: no tangent comes out of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..values import ParameterSlot, UnsupportedOperationError
from .generic import call_function

__all__ = ["embedding"]

_NAMES = ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")


def embedding(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``F.embedding``."""
    given = {**dict(zip(_NAMES, args, strict=False)), **kwargs}
    index, weight, padding = given["input"], given["weight"], given.get("padding_idx")
    if given.get("scale_grad_by_freq") and weight.tangent is not None:
        raise UnsupportedOperationError(
            "model: an embedding with scale_grad_by_freq=True has a gradient that is no derivative of the loss, so "
            "there is no Hessian: set scale_grad_by_freq=False"
        )
    if given.get("max_norm") is not None or given.get("scale_grad_by_freq"):
        return call_function(ctx, func, args, kwargs)
    rows = weight.primal.shape[0]
    keep = None
    if padding is not None:
        keep = (index != padding % rows)[..., None]
    tangent = None
    if weight.tangent is not None:
        tangent = weight.tangent[:, index].contiguous()  # each stream in one piece, whatever the user's vectors are
        if keep is not None:
            tangent = tangent * keep
    flat = index.reshape(-1)

    def scatter(streams: Tensor, out: Tensor) -> Tensor:
        if keep is not None:
            streams = streams * keep
        return out.index_add_(1, flat, streams.reshape(streams.shape[0], flat.numel(), -1).to(out.dtype))

    def backward(g: Tensor | None, h: Tensor | None) -> None:
        slot, like = weight.slot, weight.primal
        if isinstance(slot, ParameterSlot):
            slot.check(g)
            if h is not None:
                scatter(h, slot.out)
            return
        gw = None if g is None else scatter(g[None], torch.zeros_like(like)[None])[0]
        hw = None if h is None else scatter(h, like.new_zeros((h.shape[0], *like.shape)))
        slot.add(gw, hw, fresh=True)

    return ctx.record(F.embedding(index, weight.primal), tangent, backward)
