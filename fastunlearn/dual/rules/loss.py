"""Cross-entropy, and where the Gauss-Newton matrix cuts the loss off from the model.

Per token, with p = softmax(z) and y the label: ``nll = logsumexp(z) - z_y``, ``nll_t = <p - e_y, zt>``,

    gz = g (p - e_y)        hz = h (p - e_y) + g (p * (zt - <p, zt>))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..values import Dual
from .generic import call_function

__all__ = ["cross_entropy", "cut", "on_cut_input", "reduced", "usual_cross_entropy", "weighted_sum"]

_NAMES = ("input", "target", "weight", "size_average", "ignore_index", "reduce", "reduction", "label_smoothing")


def cut(ctx: Any, value: Any) -> Any:
    """``value`` as the input of a convex loss: a Gauss-Newton pass goes on below it with one stream (h) alone."""
    if not (ctx.one_stream and isinstance(value, Dual)):
        return value
    return ctx.record(value.primal, value.tangent, lambda g, h: value.slot.add(None, h))


def on_cut_input(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """A convex loss of its first argument (log_softmax, mse_loss, ...), by the generic rule."""
    if args:
        args = (cut(ctx, args[0]), *args[1:])
    else:
        kwargs = {**kwargs, "input": cut(ctx, kwargs["input"])}
    return call_function(ctx, func, args, kwargs)


def weighted_sum(ctx: Any, nll: Dual, weights: Tensor) -> Dual:
    """``sum_n weights_n nll_n``, a scalar."""
    tangent = None if nll.tangent is None else nll.tangent.to(weights.dtype) @ weights

    slot = nll.slot

    def backward(g: Tensor | None, h: Tensor | None) -> None:
        slot.add(None if g is None else g * weights, None if h is None else h[:, None] * weights)

    return ctx.record(torch.dot(nll.primal.to(weights.dtype), weights), tangent, backward)


def _token_losses(ctx: Any, logits: Dual, labels: Tensor, valid: Tensor) -> Dual:
    """The negative log-likelihoods (N,) of logits (N, V); 0 where a label is not valid."""
    z, zt = logits.primal, logits.tangent
    index = labels.where(valid, 0)[:, None]
    keep = valid[:, None].to(z.dtype)

    def residual() -> tuple[Tensor, Tensor]:
        p = torch.softmax(z, -1)
        return p, p.scatter_add(-1, index, torch.full_like(keep, -1.0)) * keep

    nll = (torch.logsumexp(z, -1) - z.gather(-1, index)[:, 0]) * keep[:, 0]
    nll_t = None if zt is None else (residual()[1] * zt).sum(-1)

    def backward(g: Tensor | None, h: Tensor | None) -> None:
        p, r = residual()
        gz = None if g is None else g[:, None] * r
        hz = None if h is None else h[..., None] * r
        if g is not None and zt is not None:
            curved = p * (zt - (p * zt).sum(-1, keepdim=True)) * (keep * g[:, None])
            hz = curved if hz is None else hz.add_(curved)
        logits.slot.add(gz, hz, fresh=True)

    return ctx.record(nll, nll_t, backward)


def usual_cross_entropy(args: tuple, kwargs: dict) -> tuple[Tensor, Tensor, str] | None:
    """Labels (N,) with -100 for those without a loss, which count, and the reduction; None for weighted classes,
    label smoothing or labels that are probabilities."""
    given = {**dict(zip(_NAMES, args, strict=False)), **kwargs}
    labels = given["target"]
    legacy = given.get("size_average") is not None or given.get("reduce") is not None
    unusual = given.get("weight") is not None or given.get("label_smoothing", 0.0) != 0.0 or legacy
    if unusual or isinstance(labels, Dual) or labels.dtype.is_floating_point:
        return None
    labels = labels.reshape(-1).long()
    valid = labels != given.get("ignore_index", -100)
    return labels.where(valid, -100), valid, given.get("reduction", "mean")


def reduced(valid: Tensor, reduction: str, dtype: torch.dtype) -> Tensor:
    """The weights of the tokens' losses in a mean or a sum."""
    weights = valid.to(dtype)
    return weights / weights.sum() if reduction == "mean" else weights


def cross_entropy(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``F.cross_entropy`` of whole logits."""
    logits = args[0] if args else kwargs["input"]
    shape = (args[1] if len(args) > 1 else kwargs["target"]).shape
    call = usual_cross_entropy(args, kwargs)
    if call is None or not isinstance(logits, Dual) or logits.ndim < 2:
        return on_cut_input(ctx, func, args, kwargs)
    labels, valid, reduction = call
    logits = cut(ctx, logits)
    if logits.ndim > 2:  # (B, V, ...)
        logits = call_function(ctx, lambda z: z.movedim(1, -1).reshape(-1, z.shape[1]), (logits,), {})
    nll = _token_losses(ctx, logits, labels, valid)
    ctx.tokens.append((nll, labels))
    if reduction == "none":
        return nll if len(shape) == 1 else call_function(ctx, lambda t: t.view(shape), (nll,), {})
    return weighted_sum(ctx, nll, reduced(valid, reduction, nll.dtype))
