"""EK-FAC and the samples' exact Fisher together, against dense matrices of tiny models."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.errors import InvalidInputError, NotPositiveDefiniteError
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.solve import KFAC, KroneckerSampleFisher
from fastunlearn.solve.kronecker_space import FLOOR
from tests.operators.sampling import make_samples
from tests.solve.test_low_rank_fisher import error

LENGTHS = (5, 9, 3, 7)
DAMPING = 1e-2


def make_gradients(model, **options):
    return SampleGradients(model, make_samples(LENGTHS), pad_token_id=0, **options)


@pytest.fixture(params=["gpt2", "llama"])
def model(request, tiny_gpt2, tiny_llama):
    return tiny_gpt2(layers=1, tied=False) if request.param == "gpt2" else tiny_llama(layers=1)


@pytest.fixture
def gradients(model):
    return make_gradients(model)


def vector(gradients):
    torch.manual_seed(3)
    return {name: torch.randn(p.shape, dtype=p.dtype) for name, p in gradients.parameters.items()}


def flat(v) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in v.values()])


@pytest.mark.parametrize("corrected", [False, True])
def test_the_gram_is_that_of_whitened_gradients(gradients, corrected):
    kronecker, rows = KFAC(gradients, DAMPING, corrected=corrected), gradients.dense()
    shapes = {name: p.shape for name, p in gradients.parameters.items()}
    solved = []
    for row in rows:
        parts = row.split([shape.numel() for shape in shapes.values()])
        one = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        solved.append(flat(kronecker.solve(one)))
    found = kronecker.gram(gradients)
    assert error(found, rows @ torch.stack(solved).T) <= 1e-9
    assert torch.equal(found, found.T)
    assert error(found, kronecker.products(gradients, gradients)[0]) <= 1e-9


@pytest.mark.parametrize("corrected", [False, True])
def test_the_gram_of_the_same_passes(model, corrected):
    """A second of its own is not needed, and what the passes gave is left as it was."""
    gradients, untouched = make_gradients(model), make_gradients(model).dense()
    both = KFAC(gradients, DAMPING, corrected=corrected, own_gram=True)
    apart = KFAC(gradients, DAMPING, corrected=corrected)
    assert apart.own_gram is None
    assert error(both.own_gram, apart.gram(gradients)) <= 1e-12
    assert torch.equal(gradients.dense(), untouched) and torch.equal(both.gram(gradients), both.own_gram)
    others = SampleGradients(model, make_samples(LENGTHS)[::-1], pad_token_id=0)  # as many, and not those
    assert error(both.gram(others), apart.gram(others)) <= 1e-12
    v = vector(gradients)
    assert all(torch.equal(both.solve(v)[name], apart.solve(v)[name]) for name in v)
    one, other = (KroneckerSampleFisher(kronecker, gradients, 1e3).solve(v) for kronecker in (both, apart))
    assert error(flat(one), flat(other)) <= 1e-9
    with pytest.raises(InvalidInputError, match="own_gram"):
        KFAC(gradients, None, own_gram=True)


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("weight", [0.1, 1.0, 1e3])
def test_what_it_solves_multiplied_by_the_matrix_is_the_vector(gradients, weight, corrected):
    kronecker = KFAC(gradients, DAMPING, corrected=corrected)
    fisher, v = KroneckerSampleFisher(kronecker, gradients, weight), vector(gradients)
    solved, rows, m = fisher.solve(v), gradients.dense(), len(gradients)
    floor = FLOOR * kronecker.gram(gradients).diagonal().mean().item()
    exact = 1 / (m / weight + floor)  # of G^T G: w / m but for the floor
    back = flat(kronecker.apply(solved)) + exact * (rows.T @ (rows @ flat(solved)))
    assert error(back, flat(v)) <= 1e-8
    assert list(solved) == list(v) and all(solved[name].shape == v[name].shape for name in v)


def test_it_is_symmetric_and_positive(gradients):
    fisher = KroneckerSampleFisher(KFAC(gradients, DAMPING), gradients, 10.0)
    a = vector(gradients)
    b = {name: tensor.flip(0) for name, tensor in vector(gradients).items()}
    left, right = flat(a) @ flat(fisher.solve(b)), flat(b) @ flat(fisher.solve(a))
    assert abs(left - right) <= 1e-9 * flat(a).norm() * flat(fisher.solve(b)).norm()
    assert flat(a) @ flat(fisher.solve(a)) > 0


def test_without_weight_it_is_ekfac_and_with_much_no_sample_moves(gradients):
    kronecker, v = KFAC(gradients, DAMPING, corrected=True), vector(gradients)
    plain = KroneckerSampleFisher(kronecker, gradients, 0).solve(v)
    assert torch.equal(flat(plain), flat(kronecker.solve(v)))
    held = KroneckerSampleFisher(kronecker, gradients, 1e12).solve(v)
    before, after = (gradients.dense() @ flat(step) for step in (plain, held))
    assert after.norm() < 1e-4 * before.norm()


def test_little_memory_gives_the_same(model):
    kept, streamed = make_gradients(model), make_gradients(model, memory=60_000)
    found = [KroneckerSampleFisher(KFAC(one, DAMPING), one, 1e3).solve(vector(one)) for one in (kept, streamed)]
    assert kept.keeps_factors and not streamed.keeps_factors
    assert error(flat(found[1]), flat(found[0])) <= 1e-6


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "1"])
def test_bad_weights(gradients, weight):
    with pytest.raises(InvalidInputError, match="weight="):
        KroneckerSampleFisher(KFAC(gradients, DAMPING), gradients, weight)


def test_a_gram_that_is_not_positive_definite_is_refused(gradients, monkeypatch):
    kronecker = KFAC(gradients, DAMPING)
    monkeypatch.setattr(kronecker, "gram", lambda a: -torch.eye(len(a), dtype=torch.float64) * 1e9)
    with pytest.raises(NotPositiveDefiniteError, match="exact_weight"):
        KroneckerSampleFisher(kronecker, gradients, 1.0)
