"""The streaming apply against float64, over odd shapes, storage dtypes and instruction sets."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.errors import BackendUnavailableError, InvalidInputError
from fastunlearn.ops._dispatch import extension, why_not_live
from fastunlearn.ops.low_rank_apply import combine, cpu, dot, quantise

SHAPES = [(1, 1, 1), (3, 63, 127), (7, 8, 64), (2, 17, 4097), (1, 5, 9001), (130, 9, 33), (0, 4, 8), (4, 0, 8)]
STORED = [torch.float32, torch.bfloat16, torch.int8]
TOLERANCE = 2e-6  # float32 sums of up to 9001 products, relative to the largest result
live = pytest.mark.skipif(bool(why_not_live("cpu")), reason=why_not_live("cpu"))


def stored(shape, dtype, seed=0):
    g = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if dtype == torch.int8:
        return quantise(g) if g.numel() else (g.to(dtype), torch.ones(shape[:2]))
    return g.to(dtype), None


def truth(g, scales):
    return g.double() if scales is None else g.double() * scales.double()[..., None]


def close(got, expected):
    assert got.shape == expected.shape and bool(torch.isfinite(got).all())
    if got.numel():
        assert (got.double() - expected).abs().max() <= TOLERANCE * expected.abs().max().clamp_min(1e-30)


@live
@pytest.mark.parametrize("dtype", STORED, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("k", [1, 3])
def test_both_products(shape, dtype, k, threads):
    g, scales = stored(shape, dtype)
    v = torch.randn(k, shape[0], shape[2], generator=torch.Generator().manual_seed(1))
    w = torch.randn(k, shape[0], shape[1], generator=torch.Generator().manual_seed(2))
    wide = truth(g, scales)
    close(dot(g, v, scales), torch.einsum("bip,kbp->kbi", wide, v.double()))
    close(combine(g, w, scales), torch.einsum("bip,kbi->kbp", wide, w.double()))
    close(dot(g, v, scales, backend="reference"), torch.einsum("bip,kbp->kbi", wide, v.double()))
    close(combine(g, w, scales, backend="reference"), torch.einsum("bip,kbi->kbp", wide, w.double()))
    threads(1)
    one = dot(g, v, scales), combine(g, w, scales)
    threads(3)
    assert torch.equal(one[0], dot(g, v, scales)) and torch.equal(one[1], combine(g, w, scales))


@live
@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_every_instruction_set(dtype):
    g, scales = stored((5, 21, 4111), dtype)
    v, w = torch.randn(2, 5, 4111), torch.randn(2, 5, 21)
    for isa in extension("cpu").live_isas():
        wide = truth(g, scales)
        close(cpu.apply("low_rank_dot", g, scales, v, 21, isa), torch.einsum("bip,kbp->kbi", wide, v.double()))
        close(cpu.apply("low_rank_combine", g, scales, w, 4111, isa), torch.einsum("bip,kbi->kbp", wide, w.double()))


@live
def test_the_check_sees_a_wrong_result():
    g, _ = stored((2, 9, 40), torch.float32)
    v = torch.randn(1, 2, 40)
    wrong = dot(g, v)
    wrong[0, 1, 8] += 1e-3
    with pytest.raises(AssertionError):
        close(wrong, torch.einsum("bip,kbp->kbi", g.double(), v.double()))


@pytest.mark.parametrize("size", [1.0, 3e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_quantised_rows_are_within_half_a_step(dtype, size):
    """Of half types too, where a step is no number of the type, or hardly one."""
    g = (torch.randn(3, 5, 100) * size).to(dtype)
    g[1, 2] = 0
    values, scales = quantise(g)
    assert ((truth(values, scales) - g).abs() <= 0.5001 * scales[..., None]).all()
    assert scales[1, 2] == 0 and not values[1, 2].any()


def test_float64_is_the_references():
    g, v = torch.randn(2, 3, 9, dtype=torch.float64), torch.randn(1, 2, 9, dtype=torch.float64)
    assert torch.allclose(dot(g, v), torch.einsum("bip,kbp->kbi", g, v), rtol=1e-14)
    with pytest.raises(BackendUnavailableError, match="has no such backend"):
        dot(g, v, backend="cpu")


@pytest.mark.parametrize(
    "g, v, scales, message",
    [
        (torch.ones(2, 3), torch.ones(1, 2, 3), None, "g must be"),
        (torch.tensor(1.0), torch.ones(1, 2, 3), None, "g must be"),
        ([[[1.0]]], torch.ones(1, 1, 1), None, "g must be"),
        (torch.ones(2, 3, 4).mT, torch.ones(1, 2, 3), None, "contiguous"),
        (torch.ones(2, 3, 4), torch.ones(1, 2, 3), None, "the vectors are"),
        (torch.ones(2, 3, 4), torch.ones(1, 2, 4, dtype=torch.float64), None, "the vectors are"),
        (torch.ones(2, 3, 4, dtype=torch.int8), torch.ones(1, 2, 4), None, "int8 rows need"),
        (torch.ones(2, 3, 4), torch.ones(1, 2, 4), torch.ones(3, 2), "scales is"),
    ],
)
def test_bad_input(g, v, scales, message):
    with pytest.raises(InvalidInputError, match=message):
        dot(g, v, scales)


def test_combine_names_what_is_wrong():
    for g in (torch.tensor(1.0), torch.ones(2, 3), [[[1.0]]]):
        with pytest.raises(InvalidInputError, match="g must be"):
            combine(g, torch.ones(1, 2, 3))
    with pytest.raises(InvalidInputError, match=r"they must be \(k, 2, 3\)"):
        combine(torch.ones(2, 3, 4), torch.ones(1, 2, 4))
