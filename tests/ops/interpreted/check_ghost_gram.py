"""The ghost Gram's kernel in the interpreter (run by tests/ops/test_triton_interpreter.py)."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.ops.ghost_gram import ghost_gram
from fastunlearn.ops.ghost_gram import triton as kernels
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


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("two_sets", [False, True])
def test_single_tokens_are_written_at_once(two_sets, bias, monkeypatch):
    """No float64 matrix (m, m), which is added to, read and mirrored: that takes longer than the products."""
    given = {}
    launch = kernels.launch
    monkeypatch.setattr(kernels, "launch", lambda *a, **how: (given.update(a[3], **how), launch(*a, **how)))
    first = make_tokens([1] * 70, 33, 65, torch.float32, seed=1)
    second = make_tokens([1] * 41, 33, 65, torch.float32, seed=2) if two_sets else None
    out = torch.full((70, 82 if two_sets else 140), float("nan"))[:, ::2]
    got = ghost_gram(*first, *(second or ()), bias=bias, out=out, backend="triton")
    assert got is out and given["SINGLE"] and given["out"].dtype == torch.float32 and given["reset"] is None
    check(got, dense_gram(first, second, bias))
    assert two_sets or torch.equal(got, got.T)


@pytest.mark.parametrize("lengths", [[2, 0, 1], [1, 1, 2]], ids=str)
def test_as_many_tokens_as_samples_are_not_single_ones(lengths):
    tokens = make_tokens(lengths, 5, 6, torch.float32)
    check(ghost_gram(*tokens, backend="triton"), dense_gram(tokens))
    single = make_tokens([1] * 4, 5, 6, torch.float32)
    check(ghost_gram(*tokens, *single, backend="triton"), dense_gram(tokens, single))
    check(ghost_gram(*single, *tokens, backend="triton"), dense_gram(single, tokens))


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
