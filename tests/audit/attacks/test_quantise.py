"""Rounding of weights on numbers worked out by hand, and against the published table of NF4."""

from __future__ import annotations

import copy

import pytest
import torch

from fastunlearn.audit.attacks import quantise
from fastunlearn.audit.attacks.quantise import (
    int8_per_channel,
    linear_weights,
    normal_float4_values,
    round_blocks_int4,
    round_blocks_nf4,
)
from fastunlearn.audit.attacks.target import Target
from fastunlearn.data.encode import Encoded
from fastunlearn.errors import InvalidInputError

#: Dettmers et al. 2023 (QLoRA), appendix E.
PUBLISHED = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


def test_nf4_has_the_published_values():
    assert normal_float4_values().tolist() == pytest.approx(PUBLISHED, abs=1e-6)


def test_int8_by_hand():
    # first row: scale 127 / 127 = 1; second: 2.54 / 127 = .02 -> .33 is 16.5 steps, even 16 -> .32; zeros stay
    weight = torch.tensor([[127.0, 0.4, -0.6], [2.54, 0.33, -0.05], [0.0, 0.0, 0.0]], dtype=torch.float64)
    found = int8_per_channel(weight)
    assert found[0].tolist() == [127, 0, -1] and found[2].tolist() == [0, 0, 0]
    assert found[1].tolist() == pytest.approx([2.54, 0.32, -0.04], abs=0.021)
    steps = found[1] / 0.02
    assert torch.allclose(steps, steps.round(), atol=1e-9)


def test_int4_by_hand():
    # blocks of 2: (7, 2.4) keeps 7 and rounds to 2; (-3.5, .6): scale .5 -> -3.5 and 1.2 steps: .5; the last alone
    found = round_blocks_int4(torch.tensor([[7.0, 2.4, -3.5, 0.6, 9.0]]), block=2)
    assert found[0].tolist() == pytest.approx([7, 2, -3.5, 0.5, 9])


def test_nf4_takes_the_nearest_of_the_values():
    # block of 4 with the largest 2: units 1, .5, -.03, -.6 -> 1, .4407 (nearer than .5626), 0, -.5251
    found = round_blocks_nf4(torch.tensor([2.0, 1.0, -0.06, -1.2], dtype=torch.float64), block=4)
    assert found.tolist() == pytest.approx([2, 2 * PUBLISHED[12], 0, 2 * PUBLISHED[2]], abs=1e-6)
    weight = torch.randn(63, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    near = round_blocks_nf4(weight)
    flat = torch.cat([weight.flatten(), torch.zeros(-weight.numel() % 64, dtype=torch.float64)]).view(-1, 64)
    scale = flat.abs().amax(1, keepdim=True)
    distance = (flat / scale)[..., None] - torch.tensor(PUBLISHED, dtype=torch.float64)
    best = (distance.abs().amin(-1) * scale).flatten()[: weight.numel()]
    torch.testing.assert_close((near.flatten() - weight.flatten()).abs(), best, atol=1e-6, rtol=0)


@pytest.mark.parametrize("rounded", [int8_per_channel, round_blocks_int4, round_blocks_nf4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (63, 127), (64, 64)])
def test_rounding_keeps_shape_and_dtype_and_settles(rounded, dtype, shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    once = rounded(weight)
    assert once.shape == weight.shape and once.dtype == dtype and bool(torch.isfinite(once).all())
    torch.testing.assert_close(rounded(once), once, rtol=2e-2 if dtype == torch.bfloat16 else 1e-6, atol=0)
    largest = float(weight.abs().max())
    share = 0.5 / 127 if rounded is int8_per_channel else 0.16  # half the widest gap: of NF4, .304 / 2
    coarse = 0.01 if dtype == torch.bfloat16 else 0.0
    assert float((once.double() - weight.double()).abs().max()) <= (1.01 * share + coarse) * largest


def test_only_linear_layers_are_rounded(tiny_llama, tiny_gpt2):
    model = tiny_llama(tied=True)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [names[id(weight)] for weight, _ in linear_weights(model)]
    assert len(found) == 14 and all(".mlp." in name or ".self_attn." in name for name in found)
    assert all(transposed for _, transposed in linear_weights(tiny_gpt2()))
    with pytest.raises(InvalidInputError, match="no linear layer"):
        linear_weights(torch.nn.Embedding(3, 4))


@pytest.mark.parametrize("kind", ["tiny_llama", "tiny_gpt2"])
def test_the_model_itself_is_not_touched(kind, request):
    model = request.getfixturevalue(kind)()
    before = copy.deepcopy(model.state_dict())
    ids = torch.arange(3, 9)
    target = Target(model, None, {"forget": [Encoded(ids, ids)]}, {}, 0, 8, 0)
    for attack, settings in (
        (quantise.quantise_int8, quantise.ChannelSettings()), (quantise.quantise_int4, quantise.BlockSettings()),
        (quantise.quantise_nf4, quantise.BlockSettings(block=3)),
    ):  # fmt: skip
        found = attack(target, settings)
        assert found.records == 1 and found.measures["probability"][0] != found.measures["probability"][1]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(InvalidInputError, match="block=0"):
        quantise.BlockSettings(block=0)


def test_rows_of_conv1d_are_its_columns(tiny_gpt2, monkeypatch):
    """GPT-2 stores weights (in, out): a channel is a column."""
    model, seen = tiny_gpt2(), []
    monkeypatch.setattr(quantise, "private_copy", lambda m: seen.append(copy.deepcopy(m)) or seen[0])
    ids = torch.arange(3, 9)
    target = Target(model, None, {"forget": [Encoded(ids, ids)]}, {}, 0, 8, 0)
    quantise.quantise_int8(target, quantise.ChannelSettings())
    weight, changed = (one.transformer.h[0].attn.c_attn.weight for one in (model, seen[0]))
    for column in range(0, weight.shape[1], 11):
        steps = changed[:, column] / (weight[:, column].abs().max() / 127)
        assert torch.allclose(steps, steps.round(), atol=1e-6)
