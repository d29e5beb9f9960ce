"""Gradients formed from factors: the same whether samples stand by length or not, in memory of one's own or not."""

from __future__ import annotations

import itertools

import pytest
import torch

from fastunlearn.operators.sources import by_length, outer_sums


def make(lengths, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    offsets = torch.tensor([0, *itertools.accumulate(lengths)])
    rows, columns = (torch.randn(sum(lengths), width, generator=generator).to(dtype) for width in (5, 3))
    return rows, columns, offsets


def loop(rows, columns, offsets) -> torch.Tensor:
    pairs = itertools.pairwise(offsets.tolist())
    return torch.stack([(rows[a:b].double().T @ columns[a:b].double()).flatten() for a, b in pairs])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("lengths", [[4], [2, 2, 2], [3, 0, 7, 1, 3, 0], [0, 0], [0, 1, 1, 5]], ids=str)
def test_outer_sums(lengths, dtype):
    rows, columns, offsets = make(lengths, dtype)
    truth = loop(rows, columns, offsets)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    buffer = torch.full((truth.numel() + 4,), float("nan"), dtype=wide)
    for got in (outer_sums(rows, columns, offsets), outer_sums(rows, columns, offsets, buffer)):
        assert got.dtype == wide and torch.allclose(got.double(), truth, rtol=1e-5, atol=1e-5)
    assert got.data_ptr() == buffer.data_ptr() and torch.isnan(buffer[truth.numel() :]).all()


@pytest.mark.parametrize("lengths", [[3, 0, 7, 1, 3, 0], [1, 2, 3], [0, 0]], ids=str)
def test_by_length(lengths):
    rows, columns, offsets = make(lengths)
    order, tokens, sorted_offsets = by_length(offsets)
    assert sorted_offsets.diff().tolist() == sorted(lengths)
    got = outer_sums(rows[tokens], columns[tokens], sorted_offsets)
    assert torch.allclose(got, loop(rows, columns, offsets)[order])
