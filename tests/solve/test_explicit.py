"""Stored gradients in blocks of a fixed number of weights: dense inverses, WoodFisher's recursion, M-FAC's formula."""

from __future__ import annotations

import pytest
import torch

import fastunlearn as fu
from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.solve import ExplicitFisher, StoredGradients, woodfisher_inverse
from tests.operators.sampling import make_samples, true_gradients
from tests.solve.test_low_rank_fisher import SMALL, dense, error, samples

WIDTHS = [3, 8, 64, 100, 10**6]


def blocked(matrix, width):
    block = torch.arange(len(matrix)) // width
    return torch.where(block[:, None] == block[None, :], matrix, 0)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("memory", ["1GB", "300KB"])
def test_fixed_blocks_against_dense_and_woodfisher(tiny_gpt2, width, memory):
    """Blocks narrower than the samples (3, 8) and wider, kept factors (1GB) and factors made anew."""
    model = tiny_gpt2(layers=1, **SMALL)
    g = true_gradients(model, samples())
    fisher = fu.LowRankFisher(model, samples(), 1e-3, blocks=width, memory=memory)
    truth = blocked(dense(g, 1e-3), width)
    v, c = torch.randn(g.shape[1], dtype=torch.float64), torch.randn(len(g), dtype=torch.float64)
    assert error(fisher @ v, truth @ v) <= 1e-9
    assert error(fisher.solve(v), torch.linalg.solve(truth, v)) <= 1e-9
    assert error(fisher.solve_samples(c), torch.linalg.solve(truth, g.T @ c)) <= 1e-8
    assert error(fisher.diag(), truth.diagonal()) <= 1e-12
    assert abs(fisher.logdet() - torch.linalg.slogdet(truth)[1].item()) <= 1e-9 * abs(fisher.logdet())
    s, q = torch.linalg.eigh(truth)
    assert error(fisher.power(-0.25, v, floor=0.01), q @ (s.clamp_min(0.01) ** -0.25 * (q.T @ v))) <= 1e-9
    recursion = torch.cat([woodfisher_inverse(part, 1e-3) @ v_part
                           for part, v_part in zip(g.split(width, 1), v.split(width), strict=True)])  # fmt: skip
    assert error(fisher.solve(v), recursion) <= 1e-9


def mfac(g, damping, v):
    """M-FAC's formula (Frantar, Kurtic, Alistarh 2021), vector by vector, without any P x P matrix."""
    m = len(g)
    solved = []  # F_(i-1)^-1 g_i
    def inverse(x):
        out = x / damping
        for row, pulled in zip(g, solved, strict=False):
            out = out - pulled * (pulled @ x) / (m + row @ pulled)
        return out
    for row in g:
        solved.append(inverse(row))
    return inverse(v)


def test_mfacs_formula_is_the_same(tiny_gpt2):
    model = tiny_gpt2(layers=1, **SMALL)
    g = true_gradients(model, samples())
    v = torch.randn(g.shape[1], dtype=torch.float64)
    assert error(fu.LowRankFisher(model, samples(), 1e-2, blocks=10**6).solve(v), mfac(g, 1e-2, v)) <= 1e-9


@pytest.mark.parametrize("storage, tolerance", [("float32", 2e-6), ("bfloat16", 2e-2), ("int8", 4e-2)])
def test_narrow_storage_in_a_file(tiny_gpt2, tmp_path, storage, tolerance):
    """The stored matrix is close to G, the solve is the exact one of what is stored, and the file goes at the end."""
    model, width, path = tiny_gpt2(torch.float32, layers=1), 100, tmp_path / "g" / "gradients.bin"
    gradients = SampleGradients(model, samples(), pad_token_id=0, memory="70KB")
    stored = StoredGradients.of(gradients, width, storage=storage, path=str(path))
    g = gradients.dense().double()
    assert path.stat().st_size == stored.values.numel() * stored.values.element_size()
    held = stored.rows(0, stored.blocks).double().permute(1, 0, 2).flatten(1)[:, : g.shape[1]]
    assert error(held, g) <= tolerance
    fisher = ExplicitFisher(stored, 1e-1)
    v = torch.randn(g.shape[1])
    truth = torch.linalg.solve(blocked(dense(held, 1e-1), width), v.double())
    assert error(fisher.solve(v), truth) <= 1e-4
    stored.close()
    assert not path.exists()


def test_refusals(tiny_gpt2):
    model = tiny_gpt2(layers=1)
    with pytest.raises(InvalidInputError, match="storage='bfloat16' or 'int8'"):
        fu.LowRankFisher(model, make_samples((3,) * 40), 1e-3, blocks=64, memory="1MB")
    for options, message in (({"blocks": 0}, "blocks=0"), ({"blocks": 8, "storage": "int4"}, "storage='int4'"),
                             ({"blocks": 8, "kind": "ggn"}, "kind='ggn' has no blocks")):  # fmt: skip
        with pytest.raises(InvalidInputError, match=message):
            fu.LowRankFisher(model, make_samples((4,)), 1e-3, **options)
    fisher = fu.LowRankFisher(model, samples(), 1e-3, blocks=64)
    with pytest.raises(InvalidInputError, match="only their own samples"):
        fisher.remove(make_samples((4,), seed=9))
    fisher.remove(samples()[:3])
    v = torch.randn(fisher.shape[0], dtype=torch.float64)
    assert error(fisher.solve(v), fu.LowRankFisher(model, samples()[3:], 1e-3, blocks=64).solve(v)) <= 1e-12
