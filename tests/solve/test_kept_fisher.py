"""The kept Fisher: full rank equals the Fisher itself, down-dating equals leaving records out."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.errors import InvalidInputError, NotPositiveDefiniteError, OutputError
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.solve import KeptFisher, SampleSpaceFisher, keep_fisher
from tests.operators.sampling import flat
from tests.solve.test_sample_space import error, operator, samples, split


def keep(model, **options) -> KeptFisher:
    return keep_fisher(model, samples(), pad_token_id=0, **{"rank": 99, "damping": 1e-3, **options})


def random_vector(model):
    return split(model, torch.randn(sum(p.numel() for p in model.parameters()), dtype=torch.float64))


def test_full_rank_loses_nothing(tiny_gpt2):
    model = tiny_gpt2()
    kept, v = keep(model), random_vector(model)
    fisher = SampleSpaceFisher(operator(model), 1e-3)
    assert kept.rank == len(samples())
    assert error(flat(kept.solve(v)), flat(fisher.solve(v))) <= 1e-8
    assert error(flat(kept.power(-0.25, v, floor=0.01)), flat(fisher.power(-0.25, v, floor=0.01))) <= 1e-8


def test_downdate_is_the_fisher_without_those_records(tiny_gpt2):
    model = tiny_gpt2()
    v = random_vector(model)
    left = keep(model).remove(operator(model, samples()[:3]))
    expected = SampleSpaceFisher(operator(model, samples()[3:]), 1e-3)
    assert left.samples == 5
    assert error(flat(left.solve(v)), flat(expected.solve(v))) <= 1e-8


def test_low_rank_keeps_the_largest_and_stays_positive_definite(tiny_gpt2):
    model = tiny_gpt2()
    kept = keep(model, rank=3)
    truth = torch.linalg.eigvalsh(SampleSpaceFisher(operator(model), 1e-3).gram[0])
    assert torch.allclose(kept.core.diag(), truth.flip(0)[:3])
    left = kept.remove(operator(model, samples()[:4]))
    assert torch.linalg.eigvalsh(left.core).min() >= -1e-9


def test_records_that_were_not_part_of_it_are_refused(tiny_gpt2):
    model = tiny_gpt2()
    stranger = SampleGradients(model, [samples()[0]] * 2, pad_token_id=0)
    with pytest.raises(NotPositiveDefiniteError, match="not part of the kept Fisher"):
        keep(model).remove(stranger)
    with pytest.raises(NotPositiveDefiniteError):
        keep(model).remove(operator(model, samples()))  # all of them: nothing is left


def test_saved_and_loaded_bit_for_bit(tiny_gpt2, tmp_path):
    model = tiny_gpt2()
    kept, path = keep(model, rank=4, parameters=["*h.1*"]), tmp_path / "fisher.safetensors"
    kept.save(path)
    loaded = KeptFisher.load(path)
    assert torch.equal(loaded.core, kept.core) and list(loaded.vectors) == list(kept.vectors)
    assert all(torch.equal(loaded.vectors[name], kept.vectors[name]) for name in kept.vectors)
    assert (loaded.damping, loaded.samples, loaded.kind) == (kept.damping, kept.samples, kept.kind)
    with pytest.raises(OutputError, match="there already: choose another name, or pass overwrite=True"):
        kept.save(path)


def test_a_file_cut_short_or_of_another_kind_is_refused(tiny_gpt2, tmp_path):
    path = tmp_path / "fisher.safetensors"
    keep(tiny_gpt2()).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InvalidInputError, match="damaged"):
        KeptFisher.load(path)
    with pytest.raises(InvalidInputError, match="there is no file"):
        KeptFisher.load(tmp_path / "none")


def test_other_weights_are_refused(tiny_gpt2):
    model = tiny_gpt2()
    kept = keep(model)
    kept.check_model(dict(model.named_parameters()))
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1e-3
    with pytest.raises(InvalidInputError, match="other weights"):
        kept.check_model(dict(model.named_parameters()))


@pytest.mark.parametrize("rank", [0, -1, 1.5, True])
def test_bad_rank(tiny_gpt2, rank):
    with pytest.raises(InvalidInputError, match="rank="):
        keep(tiny_gpt2(layers=1), rank=rank)


def test_vectors_are_orthonormal(tiny_gpt2):
    kept = keep(tiny_gpt2(), rank=5)
    u = torch.cat([tensor.flatten(1) for tensor in kept.vectors.values()], 1)
    assert torch.allclose(u @ u.T, torch.eye(5, dtype=torch.float64), atol=1e-9)
