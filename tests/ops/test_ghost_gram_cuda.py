"""The CUDA kernels against float64, where a device is there (bench/device.sh runs this on a bare GPU machine)."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.ops._dispatch import why_not_live
from fastunlearn.ops.ghost_gram import embedding_gram, formed_gram, ghost_gram
from fastunlearn.ops.null import null
from tests.ops.gram_cases import check, dense_gram, error, make_tokens
from tests.ops.test_ghost_gram import FLOATS, SHAPES
from tests.ops.thresholds import GRAM

REASON = why_not_live("cuda")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(REASON), reason=f"cuda backend: {REASON}")]


def on_device(tokens):
    return tokens.x.cuda(), tokens.g.cuda(), tokens.offsets


@pytest.mark.parametrize("count", [0, 1, 63, 100_000_001])
def test_null(count):
    x = torch.randn(count, device="cuda")
    assert torch.equal(null(x, backend="cuda"), x)


@pytest.mark.parametrize("backend", ["cuda", "triton"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{len(s[0])}x{s[1]}x{s[2]}")
@pytest.mark.parametrize("bias", [False, True])
def test_symmetric(dtype, shape, bias, backend):
    if backend == "triton" and dtype == torch.float64:
        pytest.skip("Triton has no float64 products")
    tokens = make_tokens(*shape, dtype)
    samples = len(shape[0])
    out = torch.full((samples, samples), float("nan"), device="cuda", dtype=dense_dtype(dtype))
    got = ghost_gram(*on_device(tokens), bias=bias, out=out, backend=backend)
    check(got.cpu(), dense_gram(tokens, bias=bias))
    assert torch.equal(got, got.T)


def dense_dtype(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_two_sets_strided_on_a_side_stream(dtype):
    first = make_tokens([63, 1, 0, 127, 210], 33, 65, dtype, seed=1)
    second = make_tokens([5, 400, 0, 1, 1, 30, 9], 33, 65, dtype, seed=2)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        x, g, offsets = on_device(first)
        wide = torch.zeros(x.shape[0], 100, dtype=dtype, device="cuda")
        wide[:, 11:44] = x
        tall = g.T.contiguous()
        got = ghost_gram(wide[:, 11:44], tall.T, offsets, *on_device(second), backend="cuda")
    stream.synchronize()
    check(got.cpu(), dense_gram(first, second))


def test_other_ways_on_the_device():
    tokens = make_tokens([3, 0, 20, 1] * 9, 40, 30, torch.float32)
    ids = torch.randint(0, 9, (len(tokens.x),))
    allowed = torch.backends.cuda.matmul.allow_tf32
    assert not allowed, "the default of PyTorch: products of float32 stay float32"
    check(formed_gram(*on_device(tokens)).cpu(), dense_gram(tokens))
    truth = embedding_gram(ids, tokens.g.double(), tokens.offsets, backend="reference")
    assert error(embedding_gram(ids.cuda(), tokens.g.cuda(), tokens.offsets).cpu(), truth) <= GRAM[torch.float32]


def test_negative_control():
    tokens = make_tokens([90, 60, 3, 140], 64, 64, torch.float32)
    x, g, offsets = on_device(tokens)
    x[100] = 0
    with pytest.raises(AssertionError):
        check(ghost_gram(x, g, offsets, backend="cuda").cpu(), dense_gram(tokens))
