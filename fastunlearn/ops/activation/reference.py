"""The activations with their first and second derivative in plain PyTorch. This file defines truth."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastunlearn.ops._dual_arguments import accumulator

QUICK = 1.702
CUBIC = 0.044715


def _silu(x: Tensor, slope: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """x sigmoid(slope x)."""
    s, rest = torch.sigmoid(slope * x), torch.sigmoid(-slope * x)
    return x * s, s * (1 + slope * x * rest), slope * s * rest * (2 + slope * x * (rest - s))


def _gelu(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x Phi(x), Phi the normal distribution."""
    below = 0.5 * torch.erfc(-x / math.sqrt(2))
    near = x.clamp(-100, 100)  # beyond it the density is 0 in every dtype, and the square would overflow
    density = torch.exp(-0.5 * near * near) / math.sqrt(2 * math.pi)
    return x * below, below + near * density, density * (2 - near * near)


def _gelu_tanh(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x (1 + tanh(w)) / 2 = x sigmoid(2 w), w = sqrt(2 / pi) (x + 0.044715 x^3)."""
    near = x.clamp(-20, 20)  # beyond it the sigmoid is 0 or 1 in every dtype, and the powers would overflow
    scale = 2 * math.sqrt(2 / math.pi)
    w = scale * (near + CUBIC * near**3)
    w1, w2 = scale * (1 + 3 * CUBIC * near**2), scale * 6 * CUBIC * near
    s, rest = torch.sigmoid(w), torch.sigmoid(-w)
    first = s * rest * w1
    return x * s, s + near * first, 2 * first + near * s * rest * (w2 + (rest - s) * w1 * w1)


def _relu(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.clamp_min(0), (x > 0).to(x.dtype), torch.zeros_like(x)


def _relu2(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    positive = x.clamp_min(0)
    return positive * positive, 2 * positive, 2 * (x > 0).to(x.dtype)


def _sigmoid(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s, rest = torch.sigmoid(x), torch.sigmoid(-x)
    return s, s * rest, s * rest * (rest - s)


def _tanh(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    t = torch.tanh(x)
    first = 4 * torch.sigmoid(2 * x) * torch.sigmoid(-2 * x)  # 1 - t^2 without its cancellation
    return t, first, -2 * t * first


def _softplus(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s, rest = torch.sigmoid(x), torch.sigmoid(-x)
    return x.clamp_min(0) + torch.log1p(torch.exp(-x.abs())), s, s * rest


_FUNCTIONS = {
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "quick_gelu": lambda x: _silu(x, QUICK),
    "relu": _relu,
    "relu2": _relu2,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "softplus": _softplus,
}

#: The names of the activations.
KINDS = tuple(_FUNCTIONS)


def derivatives(x: Tensor, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """f(x), f'(x), f''(x) of the activation ``kind``, in x's dtype. At the kink of relu the derivatives are 0."""
    return _FUNCTIONS[kind](x)


def dual_forward(x: Tensor, xt: Tensor | None, kind: str) -> tuple[Tensor, Tensor | None]:
    """y = f(x), yt = f'(x) xt; x any shape, xt (K, *shape) or None (then yt is None)."""
    f, f1, _ = derivatives(x.to(accumulator(x.dtype)), kind)
    return _narrow(f, x), None if xt is None else _narrow(f1 * xt, x)


def _narrow(value: Tensor, x: Tensor) -> Tensor:
    return value.to(x.dtype).contiguous()


def dual_backward(
    x: Tensor, xt: Tensor | None, g: Tensor | None, h: Tensor | None, kind: str
) -> tuple[Tensor | None, Tensor | None]:
    """gx = f' g, hx = f' h + f'' xt g. What is None counts as zero; so does a result of None."""
    _, f1, f2 = derivatives(x.to(accumulator(x.dtype)), kind)
    gx = None if g is None else _narrow(f1 * g, x)
    hx = None if h is None else f1 * h
    if g is not None and xt is not None:
        curved = f2 * g * xt
        hx = curved if hx is None else hx + curved
    return gx, None if hx is None else _narrow(hx, x)
