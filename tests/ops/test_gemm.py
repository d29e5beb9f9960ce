"""Products of half-precision factors with float32 results: as on a GPU's matrix units, the two calls of which are
replaced here by products of widened factors (there are none for the CPU)."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.ops import _gemm
from fastunlearn.ops.ghost_gram import formed, formed_gram
from tests.ops.gram_cases import dense_gram, make_tokens

HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture
def units(monkeypatch):
    """Matrix units, of the CPU's arithmetic; how often each call was used."""
    used = {"mm": 0, "bmm": 0}

    def mm(a, b):
        used["mm"] += 1
        return a.float() @ b.float()

    def bmm(a, b, out):
        used["bmm"] += 1
        assert out.dtype == torch.float32
        return torch.bmm(a.float(), b.float(), out=out)

    for module in (_gemm, formed):
        monkeypatch.setattr(module, "matrix_units", lambda *t: t[0].dtype in _gemm.HALVES and t[-1].dtype == t[0].dtype)
    monkeypatch.setattr(_gemm, "_mm", mm)
    monkeypatch.setattr(_gemm, "_bmm", bmm)
    return used


def relative(got: torch.Tensor, truth: torch.Tensor) -> float:
    assert got.dtype == torch.float32 and got.shape == truth.shape
    return ((got.double() - truth).abs().max() / truth.abs().max()).item()


@pytest.mark.parametrize("chunk", [16, 64, 1 << 14])
@pytest.mark.parametrize("width", [1, 63, 64, 1000])
def test_long_rows(units, monkeypatch, chunk, width):
    """In one chunk and many, with a rest and without, few partial sums at a time."""
    monkeypatch.setattr(_gemm, "CHUNK", chunk)
    monkeypatch.setattr(_gemm, "PARTIAL_BYTES", 4 * 7 * 5 * 3)
    a, b = (torch.randn(n, width + 3).to(torch.bfloat16)[:, :width] for n in (7, 5))
    assert relative(_gemm.rounded_nt(a, b), a.double() @ b.double().T) <= 1e-6
    assert (units["bmm"] > 0) == (width >= chunk) and (units["mm"] > 0) == (width % chunk > 0)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64], ids=str)
def test_wide_results(units, dtype):
    a, b = torch.randn(3, 5, 8).to(dtype), torch.randn(3, 8, 4).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    out = torch.full((3, 5, 4), float("nan"), dtype=wide)
    assert _gemm.wide_bmm(a, b, out) is out
    assert ((out - a.double() @ b.double()).abs().max() <= 1e-5) and units["bmm"] == (dtype in HALVES)
    got = _gemm.wide_nt(a[0], b[0].T)
    assert got.dtype == wide and torch.allclose(got.double(), a[0].double() @ b[0].double(), atol=1e-5)


@pytest.mark.parametrize("two", [False, True], ids=["one set", "two sets"])
@pytest.mark.parametrize("lengths", [[4] * 9, [1, 6, 0, 9, 3]], ids=["alike", "ragged"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_formed_gram(units, dtype, lengths, two, monkeypatch):
    """Gradients are rounded to bfloat16 once they are formed: the error is as README.md of the op says, a tenth of one
    rounding here, as each has 2600 numbers."""
    monkeypatch.setattr(_gemm, "CHUNK", 512)
    first, second = make_tokens(lengths, 40, 65, dtype), make_tokens([3, 5], 40, 65, dtype, seed=1)
    given = (*first, *second) if two else first
    for memory in (1 << 20, 9 * 4 * 40 * 16):
        got = formed_gram(*given, bias=True, memory_bytes=memory)
        truth = dense_gram(first, second, bias=True) if two else dense_gram(first, bias=True)
        sizes = dense_gram(first, bias=True).diagonal()
        others = dense_gram(second, bias=True).diagonal() if two else sizes
        scale = (sizes[:, None] * others).sqrt().clamp_min(1e-30)
        assert got.dtype == torch.float32
        assert ((got.double() - truth).abs() / scale).max() <= 4e-4
    assert units["bmm"] + units["mm"] > 0


def test_tiles_of_bfloat16_take_half_the_memory(units, monkeypatch):
    """A negative control for the rounding: without it the same Gram has float32's digits."""
    tokens = make_tokens([4] * 9, 40, 65, torch.bfloat16)
    truth = dense_gram(tokens)
    rounded = relative(formed_gram(*tokens), truth)
    monkeypatch.setattr(formed, "matrix_units", lambda *t: False)
    assert relative(formed_gram(*tokens), truth) <= 1e-6 < rounded
