"""The ghost Gram's kernel in the interpreter (run by tests/ops/test_triton_interpreter.py)."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.ops.ghost_gram import ghost_gram
from tests.ops.gram_cases import check, dense_gram, make_tokens

# Tiles are of 32 tokens: samples within one, over several, empty ones between, single tokens.
SHAPES = [
    ([1], 1, 1),
    ([1] * 40, 33, 7),
    ([3, 0, 61, 1, 0, 0, 20], 7, 40),
    ([0, 0, 70], 65, 32),
    ([31, 1, 32, 33], 16, 50),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{len(s[0])}x{s[1]}x{s[2]}")
@pytest.mark.parametrize("bias", [False, True])
def test_one_set(shape, bias):
    tokens = make_tokens(*shape, torch.float32)
    got = ghost_gram(*tokens, bias=bias, backend="triton")
    check(got, dense_gram(tokens, bias=bias))
    assert torch.equal(got, got.T)


@pytest.mark.parametrize("bias", [False, True])
def test_two_sets_with_strides(bias):
    first = make_tokens([33, 1, 0, 60], 33, 65, torch.float32, seed=1)
    second = make_tokens([5, 40, 0, 1, 1, 30, 9], 33, 65, torch.float32, seed=2)
    wide = torch.full((94, 100), float("nan"))
    wide[:, 11:44] = first.x
    tall = first.g.T.contiguous()
    out = torch.full((4, 14), float("nan"))[:, ::2]
    got = ghost_gram(wide[:, 11:44], tall.T, first.offsets, *second, bias=bias, out=out, backend="triton")
    assert got is out
    check(got, dense_gram(first, second, bias))
    check(ghost_gram(*second, *first, bias=bias, backend="triton"), dense_gram(second, first, bias))


def test_no_tokens():
    none, some = make_tokens([0, 0], 4, 3, torch.float32), make_tokens([2, 3], 4, 3, torch.float32)
    assert torch.equal(ghost_gram(*none, *some, backend="triton"), torch.zeros(2, 2))
    assert torch.equal(ghost_gram(*none, backend="triton"), torch.zeros(2, 2))


def test_sums_of_samples_that_cancel_are_kept_apart():
    """A sample of a thousandth beside one a thousand times as large, in one tile: running sums must not blur it."""
    tokens = make_tokens([16, 16], 8, 8, torch.float32)
    tokens.x[:16] *= 1e3
    tokens.x[16:] *= 1e-3
    truth = dense_gram(tokens)
    got = ghost_gram(*tokens, backend="triton")
    assert ((got.double() - truth).abs() <= 1e-5 * truth.abs().clamp_min(1e-12)).all()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_sample_that_is_no_number_spoils_no_other(wrong):
    tokens = make_tokens([5, 6, 21, 7, 30], 8, 8, torch.float32)
    tokens.g[7] = wrong
    truth = dense_gram(tokens)
    got = ghost_gram(*tokens, backend="triton")
    spoilt = torch.zeros(5, dtype=torch.bool)
    spoilt[1] = True
    assert not got[spoilt].isfinite().any() and not got[:, spoilt].isfinite().any()
    check(got[~spoilt][:, ~spoilt], truth[~spoilt][:, ~spoilt])


def test_a_sample_far_larger_than_the_next():
    tokens = make_tokens([10, 10, 10], 8, 8, torch.float32)
    tokens.x[:10] *= 1e8
    tokens.g[:10] *= 1e8
    check(ghost_gram(*tokens, backend="triton")[1:, 1:], dense_gram(tokens)[1:, 1:])
