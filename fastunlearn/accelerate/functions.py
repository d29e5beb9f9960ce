"""Which PyTorch functions are replaced, by what, and when: what is not known exactly as it is goes to PyTorch."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from fastunlearn.ops.activation.autograd import activation
from fastunlearn.ops.attention import AttentionSpec
from fastunlearn.ops.attention.autograd import attention
from fastunlearn.ops.norm.autograd import layer_norm, rms_norm

from .autocast import as_it_is, cast, without
from .checkpoints import follow_into_recomputation, saving
from .losses import cross_entropy, log_softmax

__all__ = ["AcceleratedMode"]

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_REDUCTIONS = ("mean", "sum", "none")
Own = Callable[[], Tensor]


def _floating(*values: Tensor | None) -> bool:
    """Whether all that is given is of one dtype that the ops have."""
    dtypes = {value.dtype for value in values if value is not None}
    return len(dtypes) == 1 and dtypes <= set(_FLOATS)


def _attention(
    own: Own, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    if dropout_p > 0.0:
        return own()  # at random: PyTorch's, with the derivatives that it has
    batched = query.dim() == key.dim() == value.dim() == 4 and query.shape[0] == key.shape[0] == value.shape[0]
    heads = batched and key.shape[1] == value.shape[1] and (enable_gqa or query.shape[1] == key.shape[1])
    learnt = attn_mask is not None and attn_mask.requires_grad
    if not heads or learnt or not _floating(query, key, value):
        with sdpa_kernel(SDPBackend.MATH):  # the only backend of PyTorch's that has all derivatives
            return own()
    if attn_mask is not None and attn_mask.dtype != torch.bool:
        attn_mask = attn_mask.to(query.dtype)
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    return attention(query, key, value, AttentionSpec(scale, causal=bool(is_causal), mask=attn_mask))


def _cross_entropy(
    own: Own, input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: bool | None = None,
    ignore_index: int = -100, reduce: bool | None = None, reduction: str = "mean", label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    plain = weight is None and size_average is None and reduce is None and label_smoothing == 0.0
    known = input.dim() == 2 and target.dim() == 1 and target.dtype == torch.int64 and reduction in _REDUCTIONS
    if plain and known and _floating(input):
        return cross_entropy(input, target, ignore_index, reduction)
    return own()


def _log_softmax(
    own: Own, input: Tensor, dim: object = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    if not isinstance(dim, int) or input.dim() == 0:
        return own()
    input = input if dtype is None else input.to(dtype)
    return log_softmax(input, dim) if _floating(input) else own()


def _silu(own: Own, input: Tensor, inplace: bool = False) -> Tensor:
    return own() if inplace or not _floating(input) else activation(input, "silu")


def _gelu(own: Own, input: Tensor, approximate: str = "none") -> Tensor:
    return activation(input, "gelu" if approximate == "none" else "gelu_tanh") if _floating(input) else own()


def _layer_norm(
    own: Own, input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    known = tuple(normalized_shape) == tuple(input.shape[-1:]) and _floating(input, weight, bias)
    return layer_norm(input, weight, bias, eps) if known else own()


def _rms_norm(
    own: Own, input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    known = tuple(normalized_shape) == tuple(input.shape[-1:]) and _floating(input, weight)
    return rms_norm(input, weight, eps) if known and eps is not None else own()


def _embedding(
    own: Own, input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None,
    norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Tensor:  # fmt: skip
    """The padding row counts as a constant. PyTorch leaves it out of the gradient but not out of a jvp, so that the
    jvp of a gradient would disagree with the gradient of a gradient, in silence."""
    if padding_idx is None or max_norm is not None or scale_grad_by_freq or sparse:
        return own()
    found = F.embedding(input, weight)
    padding = (input == padding_idx % weight.shape[0]).unsqueeze(-1)
    return torch.where(padding, found.detach(), found)


_TABLE: dict[Callable, Callable[..., Tensor]] = {
    F.scaled_dot_product_attention: _attention,
    F.cross_entropy: _cross_entropy,
    F.embedding: _embedding,
    F.log_softmax: _log_softmax,
    torch.log_softmax: _log_softmax,
    Tensor.log_softmax: _log_softmax,
    F.silu: _silu,
    F.gelu: _gelu,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
}
# How autocast's dtype of each is found out: a call on x (1, 1, 1, 8). Of an embedding it leaves the weight alone.
_SAMPLES: dict[Callable, Callable[[Callable, Tensor], Tensor]] = {
    _attention: lambda own, x: own(x, x, x),
    _cross_entropy: lambda own, x: own(x[0, 0], torch.zeros(1, dtype=torch.int64, device=x.device)),
    _log_softmax: lambda own, x: own(x, -1),
    _silu: lambda own, x: own(x),
    _gelu: lambda own, x: own(x),
    _layer_norm: lambda own, x: own(x, (8,)),
    _rms_norm: lambda own, x: own(x, (8,)),
}
_SIGNATURES = {function: inspect.signature(function) for function in set(_TABLE.values())}


class AcceleratedMode(TorchFunctionMode):
    """While it is on, the functions of the table are replaced, in this thread; and in the second run of a function
    that is checkpointed meanwhile."""

    def __enter__(self) -> Any:
        self._outside = saving()
        return super().__enter__()

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        replacement = _TABLE.get(func)
        if replacement is None:
            return func(*args, **kwargs)
        follow_into_recomputation(self._outside, AcceleratedMode)

        device = next((v.device for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)
        casting = as_it_is(device)

        def own() -> Tensor:
            with casting():
                return func(*args, **kwargs)

        try:
            bound = _SIGNATURES[replacement].bind(own, *args, **kwargs)
        except TypeError:  # a signature of another PyTorch than this was written for, or a caller's mistake
            return own()
        values = cast(bound.arguments.values(), func, _SAMPLES.get(replacement))
        bound.arguments.update(zip(bound.arguments, values, strict=True))
        with without(device):
            return replacement(*bound.args, **bound.kwargs)
