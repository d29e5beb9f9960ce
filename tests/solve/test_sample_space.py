"""Solves with the low-rank Fisher against dense inverses and against the WoodFisher recursion."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastunlearn.errors import InvalidInputError, NotPositiveDefiniteError
from fastunlearn.operators.gram import gram_blocks
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.solve import SampleSpaceFisher, woodfisher_inverse
from tests.operators.sampling import flat, make_samples, true_gradients

LENGTHS = (5, 9, 3, 7, 6, 8, 4, 10)
DAMPINGS = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5]
SMALL = {"n_embd": 4, "n_head": 1, "n_positions": 12}  # a dense Fisher of some hundred parameters


def error(got, truth) -> float:
    return ((got.double() - truth).norm() / truth.norm()).item()


def samples():
    return make_samples(LENGTHS)


def operator(model, some=None):
    return SampleGradients(model, some or samples(), pad_token_id=0, batch_size=4)


def split(model, vector):
    parts, start = {}, 0
    for name, parameter in model.named_parameters():
        parts[name] = vector[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    return parts


def dense_fisher(g, damping):
    return damping * torch.eye(g.shape[1], dtype=g.dtype) + g.T @ g / len(g)


@pytest.mark.parametrize("damping", DAMPINGS)
def test_push_through_in_float32_against_the_dense_float64_inverse(tiny_gpt2, damping):
    shape = {"layers": 1, "n_embd": 8}
    wide, narrow = tiny_gpt2(**shape), tiny_gpt2(torch.float32, **shape)
    narrow.load_state_dict(wide.state_dict())
    wide.load_state_dict(narrow.state_dict())  # the same weights, those that float32 can hold
    g = true_gradients(wide, samples())
    c = torch.randn(len(g), dtype=torch.float64)
    truth = torch.linalg.solve(dense_fisher(g, damping), g.T @ c)
    assert error(flat(SampleSpaceFisher(operator(narrow), damping).solve_samples(c)), truth) <= 1e-6


def test_the_diagonal_keeps_the_digits_of_float64(tiny_gpt2):
    """Of three samples: a third has none of a float32's digits to spare."""
    model, some = tiny_gpt2(layers=1, **SMALL), samples()[:3]
    truth = dense_fisher(true_gradients(model, some), 1e-3).diagonal()
    assert error(flat(SampleSpaceFisher(operator(model, some), 1e-3).diagonal()), truth) <= 1e-13


def extended_woodfisher(g: torch.Tensor, damping: float) -> np.ndarray:
    """The recursion in 80-bit floats, where its own loss of digits at small damping does not show."""
    rows = g.numpy().astype(np.longdouble)
    inverse = np.eye(rows.shape[1], dtype=np.longdouble) / np.longdouble(damping)
    for row in rows:
        pulled = inverse @ row
        inverse -= np.outer(pulled, pulled) / (len(rows) + row @ pulled)
    return inverse


@pytest.mark.parametrize("damping", DAMPINGS)
def test_float64_against_the_woodfisher_recursion(tiny_gpt2, damping):
    model = tiny_gpt2(layers=1, **SMALL)
    g = true_gradients(model, samples())
    inverse = extended_woodfisher(g, damping)
    fisher = SampleSpaceFisher(operator(model), damping)

    c = torch.randn(len(g), dtype=torch.float64)
    expected = torch.from_numpy((inverse @ (g.T @ c).numpy()).astype(np.float64))
    assert error(flat(fisher.solve_samples(c)), expected) <= 1e-10
    v = torch.randn(g.shape[1], dtype=torch.float64)
    woodbury = flat(fisher.solve(split(model, v)))
    assert error(woodbury, torch.from_numpy((inverse @ v.numpy()).astype(np.float64))) <= 1e-10
    if damping >= 1e-3:  # below, the recursion in float64 is itself off by more
        ours = woodfisher_inverse(g, damping)
        assert error(flat(fisher.solve_samples(c)), ours @ (g.T @ c)) <= 1e-10


@pytest.mark.parametrize("kind", ["model", "layer", "tensor"])
def test_block_solves(tiny_gpt2, kind):
    model = tiny_gpt2(layers=2, **SMALL)
    g = true_gradients(model, samples())
    fisher = SampleSpaceFisher(operator(model), 1e-3, blocks=kind)
    dense, seen = dense_fisher(g, 1e-3), []
    for name, parameter in model.named_parameters():
        seen += [fisher.blocks.of[name]] * parameter.numel()
    block = torch.tensor(seen)
    dense[block[:, None] != block[None, :]] = 0
    c = torch.randn(len(g), dtype=torch.float64)
    v = torch.randn(g.shape[1], dtype=torch.float64)
    assert error(flat(fisher.solve_samples(c)), torch.linalg.solve(dense, g.T @ c)) <= 1e-9
    assert error(flat(fisher.solve(split(model, v))), torch.linalg.solve(dense, v)) <= 1e-9
    assert abs(fisher.logdet() - torch.linalg.slogdet(dense)[1].item()) <= 1e-6 * abs(fisher.logdet())
    s, q = torch.linalg.eigh(dense)
    for p in (-0.25, -1.0, 0.5):
        assert error(flat(fisher.power(p, split(model, v))), q @ (s**p * (q.T @ v))) <= 1e-7
    floored = q @ (s.clamp_min(0.1) ** -0.25 * (q.T @ v))
    assert error(flat(fisher.power(-0.25, split(model, v), floor=0.1)), floored) <= 1e-7


def test_right_hand_sides_of_other_samples(tiny_gpt2):
    model = tiny_gpt2()
    forget = make_samples((6, 4, 5), seed=9)
    inside, outside = operator(model), operator(model, forget)
    fisher = SampleSpaceFisher(inside, 1e-3, blocks="layer")
    cross = gram_blocks([inside, outside], [(0, 1)], fisher.blocks)[0, 1]
    c = torch.randn(3, dtype=torch.float64)
    w, u = fisher.outside_weights(cross, c)
    first = flat(inside.weighted_gradient(w, fisher.blocks.of))
    got = first + flat(outside.weighted_gradient(u))
    v = outside.weighted_gradient(c)
    assert error(got, flat(fisher.solve(v))) <= 1e-9


def test_the_solve_is_symmetric_and_linear(tiny_llama):
    model = tiny_llama(tied=True)
    fisher = SampleSpaceFisher(operator(model), 1e-2)
    u, v = torch.randn(2, sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    solve = lambda vector: flat(fisher.solve(split(model, vector)))  # noqa: E731
    assert abs(u @ solve(v) - v @ solve(u)) <= 1e-9 * abs(u @ solve(v))
    assert error(solve(2 * u - 3 * v), 2 * solve(u) - 3 * solve(v)) <= 1e-9


@pytest.mark.parametrize("damping", [0, -1.0, float("nan"), float("inf"), None, True])
def test_damping_must_be_above_zero(tiny_gpt2, damping):
    with pytest.raises(InvalidInputError, match="damping="):
        SampleSpaceFisher(operator(tiny_gpt2(layers=1)), damping)


def test_damping_eaten_by_rounding_is_refused(tiny_gpt2):
    g = operator(tiny_gpt2(layers=1), make_samples((5,)) * 4)  # four times one sample: rank 1
    gram = gram_blocks([g], [(0, 0)], SampleSpaceFisher(g, 1.0).blocks)[0, 0]
    with pytest.raises(NotPositiveDefiniteError, match="raise damping"):
        SampleSpaceFisher(g, 1e-300, gram=gram - 1e-9 * torch.eye(4, dtype=torch.float64))


def test_wrong_number_of_sample_weights(tiny_gpt2):
    with pytest.raises(InvalidInputError, match=r"c has shape \(3,\); it must be \(8,\)"):
        SampleSpaceFisher(operator(tiny_gpt2(layers=1)), 1e-3).sample_weights(torch.ones(3))
