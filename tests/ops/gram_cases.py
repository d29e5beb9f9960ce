"""Inputs for the Gram tests, and the error measure they share."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

from tests.ops.thresholds import GRAM


@dataclass
class Tokens:
    """One set of samples: x (N, d_in), g (N, d_out), offsets (m + 1,)."""

    x: torch.Tensor
    g: torch.Tensor
    offsets: torch.Tensor

    def __iter__(self):
        return iter((self.x, self.g, self.offsets))

    def wide(self) -> Tokens:
        return Tokens(self.x.double(), self.g.double(), self.offsets)


def offsets_of(lengths) -> torch.Tensor:
    return torch.tensor([0, *torch.tensor(list(lengths), dtype=torch.int64).cumsum(0).tolist()])


def make_tokens(lengths, d_in, d_out, dtype=torch.float64, seed=0) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    n = sum(lengths)
    x = torch.randn(n, d_in, generator=generator, dtype=torch.float64).to(dtype)
    g = torch.randn(n, d_out, generator=generator, dtype=torch.float64).to(dtype)
    return Tokens(x, g, offsets_of(lengths))


def dense_gram(first: Tokens, second: Tokens | None = None, bias: bool = False) -> torch.Tensor:
    """The truth, from whole per-sample gradients in float64: independent of every way under test."""

    def rows(side: Tokens) -> torch.Tensor:
        side = side.wide()
        x = torch.cat([side.x, side.x.new_ones(len(side.x), 1)], 1) if bias else side.x
        bounds = side.offsets.tolist()
        return torch.stack([(side.g[a:b].T @ x[a:b]).flatten() for a, b in itertools.pairwise(bounds)])

    a = rows(first)
    return a @ (a if second is None else rows(second)).T


def error(got: torch.Tensor, truth: torch.Tensor) -> float:
    """Largest error over the truth's largest element; infinite where ``got`` holds NaN."""
    if not bool(torch.isfinite(got).all()):
        return float("inf")
    return ((got.double() - truth).abs().max() / truth.abs().max().clamp_min(1e-300)).item()


def check(got: torch.Tensor, truth: torch.Tensor, terms: torch.Tensor | None = None) -> None:
    """``terms``: the same sums of magnitudes, where terms of ``truth`` may cancel: rounding is relative to those."""
    assert got.shape == truth.shape
    assert bool(torch.isfinite(got).all())
    scale = (truth if terms is None else terms).abs().max().clamp_min(1e-300)
    assert ((got.double() - truth).abs().max() / scale).item() <= GRAM[got.dtype]
