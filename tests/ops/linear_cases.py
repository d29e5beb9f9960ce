"""Inputs, oracles and comparisons that the tests of linear and of linear + cross-entropy share."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import pytest
import torch
from torch import Tensor

from fastunlearn.ops._dispatch import why_not_live
from tests.ops.thresholds import LINEAR

CPU_REASON = why_not_live("cpu")
needs_cpu = pytest.mark.skipif(bool(CPU_REASON), reason=f"cpu backend: {CPU_REASON}")
BACKENDS = ["reference", pytest.param("cpu", marks=needs_cpu)]
FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def sums(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def live_isas() -> list[str]:
    if CPU_REASON:
        return []
    from fastunlearn import _cpu

    return _cpu.live_isas()


def error(got: Tensor, truth: Tensor) -> float:
    """Largest error over the largest element of the truth (absolute where that is 0); infinite for NaN."""
    assert got.shape == truth.shape, (got.shape, truth.shape)
    if got.numel() == 0:
        return 0.0
    if not bool(torch.isfinite(got).all()):
        return float("inf")
    size = truth.abs().max().item()
    return (got.double() - truth.double()).abs().max().item() / (size or 1.0)


def check(got: Tensor | None, truth: Tensor | None, dtype: torch.dtype, factor: float = 1.0) -> None:
    assert (got is None) == (truth is None)
    if got is not None:
        assert error(got, truth) <= factor * LINEAR[dtype], (error(got, truth), got.shape)


@dataclass(frozen=True)
class HeadCase:
    """The inputs of the cross-entropy ops."""

    x: Tensor
    xt: Tensor | None
    weight: Tensor
    weight_t: Tensor | None
    labels: Tensor
    token_weights: Tensor
    bias: Tensor | None = None
    bias_t: Tensor | None = None
    softcap: float | None = None
    logit_scale: float = 1.0

    @property
    def streams(self) -> int:
        return next(t.shape[0] for t in (self.xt, self.weight_t, self.bias_t) if t is not None)

    def to(self, dtype: torch.dtype) -> HeadCase:
        floats = {
            f.name: getattr(self, f.name).to(dtype)
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor) and f.name != "labels"
        }
        return replace(self, **floats)

    def tangents(self) -> tuple:
        return self.x, self.xt, self.weight, self.weight_t, self.labels

    def layer(self) -> dict:
        return {"bias": self.bias, "softcap": self.softcap, "logit_scale": self.logit_scale}


def head_case(
    rows: int, width: int, vocabulary: int, streams: int = 1, *, dtype: torch.dtype = torch.float64, bias: bool = False,
    softcap: float | None = None, logit_scale: float = 1.0, seed: int = 0, spread: float = 1.0, masked: float = 0.25,
) -> HeadCase:  # fmt: skip
    """Random inputs, rounded to ``dtype``; a share ``masked`` of the tokens has label -100, as many weight 0."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    def share(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    labels = torch.randint(vocabulary, (rows,), generator=generator)
    labels[share(rows) < masked] = -100
    token_weights = share(rows) + 0.1
    token_weights[share(rows) < masked] = 0
    return HeadCase(
        normal(rows, width), normal(streams, rows, width), spread * normal(vocabulary, width) / width**0.5,
        normal(streams, vocabulary, width) / width**0.5, labels, token_weights.to(dtype),
        normal(vocabulary) if bias else None, normal(streams, vocabulary) if bias else None, softcap, logit_scale,
    )  # fmt: skip


def _nll(case: HeadCase, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    z = case.logit_scale * torch.nn.functional.linear(x, weight, bias)
    if case.softcap is not None:
        z = case.softcap * torch.tanh(z / case.softcap)
    return torch.nn.functional.cross_entropy(z, case.labels, reduction="none", ignore_index=-100)


def by_autograd(case: HeadCase, stream: int) -> dict:
    """Float64 double backward through PyTorch's own cross-entropy, for one stream: the oracle of the reference."""
    c = case.to(torch.float64)
    leaves = [t.clone().requires_grad_() for t in (c.x, c.weight, c.bias) if t is not None]
    given = (c.xt, c.weight_t, c.bias_t if c.bias is not None else None)
    primals = (c.x, c.weight, c.bias)
    direction = [
        torch.zeros_like(p) if t is None else t[stream] for p, t in zip(primals, given, strict=True) if p is not None
    ]
    nll = _nll(c, *leaves, *([None] if c.bias is None else []))
    weight_of = torch.where(c.labels == -100, torch.zeros_like(c.token_weights), c.token_weights)
    grads = torch.autograd.grad((nll * weight_of).sum(), leaves, create_graph=True)
    slope = sum((g * v).sum() for g, v in zip(grads, direction, strict=True))
    products = torch.autograd.grad(slope, leaves)
    names = ["x", "weight", "bias"]
    result = {f"g_{n}": g.detach() for n, g in zip(names, grads, strict=False)}
    result |= {f"h_{n}": h for n, h in zip(names, products, strict=False)}
    # The derivative of every token's loss: double backward of a dummy-weighted sum.
    dummy = torch.ones_like(nll, requires_grad=True)
    again = _nll(c, *leaves, *([None] if c.bias is None else []))
    rows = torch.autograd.grad((again * dummy).sum(), leaves, create_graph=True)
    nll_t = torch.autograd.grad(sum((g * v).sum() for g, v in zip(rows, direction, strict=True)), dummy)[0]
    return result | {"nll": nll.detach(), "nll_t": nll_t}
