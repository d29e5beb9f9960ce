"""Weights in bfloat16, and an 8-bit base that is frozen under an adapter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastunlearn as fu
from fastunlearn.errors import InvalidInputError


def unlearn(world, **more):
    return fu.unlearn(world.model, world.tokenizer, forget=world.forget, retain=world.retain, held_out=world.held_out,
                      steps=16, **more)  # fmt: skip


def test_bfloat16_weights(world, accuracy):
    world.model = world.model.to(torch.bfloat16)
    forget, retain = world.encoded(world.forget), world.encoded(world.retain)
    before = accuracy(world.model, forget)
    result = unlearn(world)
    assert all(p.dtype == torch.bfloat16 for p in result.model.parameters())
    assert accuracy(result.model, forget) < before - 0.3 and accuracy(result.model, retain) > 0.7


class Int8Linear(nn.Module):
    """What 8-bit packages do: integer weights, one scale per row, no gradient of the weights."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((linear.weight.detach() / scale).round().to(torch.int8), requires_grad=False)
        self.register_buffer("scale", scale)

    def forward(self, x):
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale.to(x.dtype))


class Adapter(nn.Module):
    def __init__(self, base: nn.Module, d_in: int, d_out: int):
        super().__init__()
        self.base = base
        self.lora_a, self.lora_b = nn.Linear(d_in, 4, bias=False), nn.Linear(4, d_out, bias=False)
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, x):
        return self.base(x) + 2 * self.lora_b(self.lora_a(x))


def quantise(model: nn.Module) -> None:
    for p in model.parameters():
        p.requires_grad_(False)
    for layer in model.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            linear = getattr(layer.mlp, name)
            setattr(layer.mlp, name, Adapter(Int8Linear(linear), linear.in_features, linear.out_features))


def test_an_adapter_over_integer_weights(world, accuracy):
    torch.manual_seed(0)
    quantise(world.model)
    frozen = {name: p.clone() for name, p in world.model.named_parameters() if not p.requires_grad}
    forget, retain = world.encoded(world.forget), world.encoded(world.retain)
    before = accuracy(world.model, forget)
    result = unlearn(world)
    assert all("lora_" in name for name in result.parameters)
    assert accuracy(result.model, forget) < before - 0.3 and accuracy(result.model, retain) > 0.8
    for name, value in frozen.items():
        assert torch.equal(world.model.get_parameter(name), value), name


def test_hessian_of_an_adapter_over_integer_weights(world):
    quantise(world.model)
    ids = torch.arange(3, 12)[None]
    hessian = fu.Hessian(world.model, {"input_ids": ids, "labels": ids})
    assert all("lora_" in name for name in hessian.walk.parameters)
    v = torch.randn(hessian.shape[0])
    step, parameters = 1e-2, list(hessian.walk.parameters.values())

    def gradient(sign):
        pieces = v.split([p.numel() for p in parameters])
        with torch.no_grad():
            for p, piece in zip(parameters, pieces, strict=True):
                p.add_(sign * step * piece.view_as(p))
        found = fu.gradient(world.model, {"input_ids": ids, "labels": ids})
        with torch.no_grad():
            for p, piece in zip(parameters, pieces, strict=True):
                p.sub_(sign * step * piece.view_as(p))
        return found

    differences = (gradient(1) - gradient(-1)) / (2 * step)
    found = hessian @ v
    assert (found - differences).norm() < 2e-2 * found.norm()


def test_quantised_weights_themselves_are_refused(world):
    quantise(world.model)
    with pytest.raises(InvalidInputError, match="quantised"):
        fu.Hessian(world.model, {"input_ids": torch.arange(4)[None], "labels": torch.arange(4)[None]},
                   params="*base.weight")  # fmt: skip
    with pytest.raises(InvalidInputError, match="matches no parameter"):
        unlearn(world, parameters="*mlp.up_proj.base.weight")


def test_bitsandbytes_8_bit_under_lora(world, accuracy):
    bnb = pytest.importorskip("bitsandbytes")
    peft = pytest.importorskip("peft")
    for p in world.model.parameters():
        p.requires_grad_(False)
    for layer in world.model.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            linear = getattr(layer.mlp, name)
            eight = bnb.nn.Linear8bitLt(linear.in_features, linear.out_features, bias=False, has_fp16_weights=False)
            eight.load_state_dict({"weight": linear.weight.detach()})
            setattr(layer.mlp, name, eight.to("cpu"))
    ids = torch.arange(3, 9)[None]
    try:
        world.model(input_ids=ids)
    except Exception as error:
        pytest.skip(f"bitsandbytes has no 8-bit product for this machine: {type(error).__name__}: {error}")
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["gate_proj", "up_proj", "down_proj"])
    world.model = peft.get_peft_model(world.model, config)
    forget = world.encoded(world.forget)
    before = accuracy(world.model, forget)
    result = unlearn(world)
    assert all("lora_" in name for name in result.parameters)
    assert accuracy(result.model, forget) < before - 0.3
