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


def test_a_file_that_is_there_is_not_touched(tiny_gpt2, tmp_path):
    """The user's own file, and that of another Fisher; both are refused before any gradient is taken."""
    model, notes, path = tiny_gpt2(layers=1, **SMALL), tmp_path / "notes.txt", tmp_path / "g"
    notes.write_text("mine")
    first = fu.LowRankFisher(model, samples(), 1e-2, blocks=64, path=path, state=notes)
    held, v = path.read_bytes(), torch.randn(first.shape[0], dtype=torch.float64)
    product = first @ v
    for taken in (notes, path):
        with pytest.raises(InvalidInputError, match="exists, and is not this Fisher's own file"):
            fu.LowRankFisher(model, make_samples((4, 6)), 1e-2, blocks=64, path=taken)
    assert notes.read_text() == "mine" and path.read_bytes() == held and torch.equal(first @ v, product)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["g", "notes.txt"]
    first.forget_personal_data()
    assert not path.exists() and notes.read_text() == "mine"  # nor is a state that these blocks have no use for


def test_a_change_that_fails_leaves_the_fisher_and_its_file(tiny_gpt2, tmp_path):
    model, path = tiny_gpt2(layers=1, **SMALL), tmp_path / "g"
    fisher = fu.LowRankFisher(model, samples(), 1e-2, blocks=64, path=path)
    held, v = path.read_bytes(), torch.randn(fisher.shape[0], dtype=torch.float64)
    before = fisher @ v, fisher.solve(v)
    bad = {name: tensor[None] for name, tensor in make_samples((6,))[0]._asdict().items()}
    bad["input_ids"] = bad["input_ids"] + 10**6  # no such token: the pass over it fails
    with pytest.raises(Exception, match="index"):
        fisher.add(bad)
    assert torch.equal(fisher @ v, before[0]) and torch.equal(fisher.solve(v), before[1])
    assert path.read_bytes() == held and [f.name for f in tmp_path.iterdir()] == ["g"]
    more = make_samples((6,), seed=9)
    fisher.add(more)  # its own file may go
    truth = fu.LowRankFisher(model, samples() + more, 1e-2, blocks=64)
    assert error(fisher.solve(v), truth.solve(v)) <= 1e-12
    assert [f.name for f in tmp_path.iterdir()] == ["g"] and path.read_bytes() != held
    path.unlink()
    path.write_text("somebody else's")
    with pytest.raises(InvalidInputError, match="not this Fisher's own"):
        fisher.remove(more)
    fisher.forget_personal_data()
    assert path.read_text() == "somebody else's"
