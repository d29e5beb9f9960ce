"""Rotary embedding against Hugging Face's form, and its transpose against the inner product."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops import rope
from tests.ops.dual_cases import HALF_BY_REFERENCE, ON_BACKENDS, check, draw, poisoned_memory

LIMIT = {torch.float32: 2e-6, torch.float64: 1e-14, torch.bfloat16: 2e-5, torch.float16: 2e-5}


@pytest.fixture(autouse=True)
def poison():
    with poisoned_memory():
        yield


def tables(shape, seed, dtype=torch.float64):
    return draw(shape, dtype, seed), draw(shape, dtype, seed + 1)


def eager(x, cos, sin, interleaved):
    """Channel by channel, in float64."""
    x, cos, sin, width = x.double(), cos.double(), sin.double(), cos.shape[-1]
    out = x.clone()
    for channel in range(width):
        if interleaved:
            other, sign = channel ^ 1, 1 if channel % 2 else -1
        else:
            other = (channel + width // 2) % width
            sign = -1 if channel < width // 2 else 1
        out[..., channel] = x[..., channel] * cos[..., channel] + sign * x[..., other] * sin[..., channel]
    return out


def compare(shape, table, interleaved, dtype, backend, seed=0, turned=False):
    """One call against the truth; ``turned``: x comes as a transposed view, as attention layers make it."""
    x = draw(shape, dtype, seed)
    cos, sin = tables(table, seed + 10, torch.float64 if dtype == torch.float64 else torch.float32)
    spread = (cos.unsqueeze(1), sin.unsqueeze(1)) if len(table) == 3 and len(shape) > 3 else (cos, sin)
    if turned and len(shape) > 2:
        x = x.transpose(-2, -3).contiguous().transpose(-2, -3)
    got = rope.apply(x, cos, sin, interleaved, backend=backend)
    assert got.dtype == dtype
    check(got, eager(x, *spread, interleaved), LIMIT[dtype], "y")


CASES = [((1, 2), (1, 2)), ((3, 63, 8), (63, 6)), ((2, 4, 7, 64), (2, 7, 64)), ((3, 2, 4, 5, 10), (2, 5, 10)),
         ((2, 3, 1, 34), (1, 1, 16)), ((0, 3, 4), (3, 4))]  # fmt: skip


@HALF_BY_REFERENCE
@pytest.mark.parametrize("interleaved", [False, True])
def test_against_channels_one_by_one(interleaved, dtype, backend):
    for seed, (shape, table) in enumerate(CASES):
        compare(shape, table, interleaved, dtype, backend, seed)


@ON_BACKENDS
@pytest.mark.parametrize("interleaved", [False, True])
def test_inverse_is_the_transpose(interleaved, backend):
    for seed, (shape, table) in enumerate(CASES[:5]):
        x, y, (cos, sin) = draw(shape, torch.float64, seed), draw(shape, torch.float64, seed + 5), tables(table, seed)
        there = rope.apply(x, cos, sin, interleaved, backend=backend)
        back = rope.apply(y, cos, sin, interleaved, inverse=True, backend=backend)
        torch.testing.assert_close((there * y).sum(), (x * back).sum(), rtol=1e-12, atol=1e-12)
        angle = draw(table, torch.float64, seed)
        width = table[-1]
        angle = (
            angle[..., : width // 2].repeat_interleave(2, -1)
            if interleaved
            else angle[..., : width // 2].repeat(*[1] * (len(table) - 1), 2)
        )
        turned = rope.apply(x, angle.cos(), angle.sin(), interleaved, backend=backend)
        home = rope.apply(turned, angle.cos(), angle.sin(), interleaved, inverse=True, backend=backend)
        torch.testing.assert_close(home, x, rtol=1e-12, atol=1e-12)


def test_as_llama_does_it():
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    q, k = draw((2, 4, 9, 16), torch.float32, 0), draw((2, 2, 9, 16), torch.float32, 1)
    cos, sin = tables((2, 9, 16), 2, torch.float32)
    wanted = apply_rotary_pos_emb(q, k, cos, sin)
    for x, want in zip((q, k), wanted, strict=True):
        torch.testing.assert_close(rope.apply(x, cos, sin), want)


def test_errors_name_the_argument():
    x, (cos, sin) = draw((2, 4, 8), torch.float32, 0), tables((4, 8), 0)
    with pytest.raises(InvalidInputError, match="cos and sin"):
        rope.apply(x, cos, sin[:, :4])
    with pytest.raises(InvalidInputError, match="R even"):
        rope.apply(x, cos[:, :7], sin[:, :7])
    with pytest.raises(InvalidInputError, match="positions"):
        rope.apply(x, cos[:3], sin[:3])
    with pytest.raises(InvalidInputError, match="does not go with"):
        rope.apply(x, cos.expand(3, 4, 8), sin.expand(3, 4, 8))
