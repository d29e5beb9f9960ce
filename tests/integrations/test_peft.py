"""PEFT: adapters alone are the parameters; unlearning into one, merged or shipped alone."""

from __future__ import annotations

import warnings

import pytest
import torch

import fastunlearn as fu
from fastunlearn.storage import save_model
from tests.models.catalogue import build, make_batch
from tests.oracles.double_backward import DoubleBackward

peft = pytest.importorskip("peft")


@pytest.mark.parametrize(("name", "targets"), [("llama", ["q_proj", "down_proj"]), ("gpt2", ["c_attn"])])
def test_lora(name, targets):
    config = peft.LoraConfig(r=2, lora_alpha=4, lora_dropout=0.0, target_modules=targets, init_lora_weights=False,
                             fan_in_fan_out=name == "gpt2")  # fmt: skip
    model, batch = peft.get_peft_model(build(name), config).double().eval(), make_batch(padded=True)
    hessian = fu.Hessian(model, [batch])
    assert all("lora_" in n for n in hessian.walk.parameters)
    v = torch.randn(hessian.shape[0], 2, dtype=torch.float64)
    found = hessian @ v
    hessian.walk._engine = DoubleBackward(model, hessian.walk.parameters)
    truth = hessian @ v
    # Llama's norms have frozen weights here, which the model's code and the rule for norms round differently.
    assert (found - truth).norm() <= 1e-6 * truth.norm()


@pytest.fixture
def adapted(world):
    """The world's model with a fresh adapter (B = 0: it does nothing yet) on every linear layer."""
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    world.base = {name: p.detach().clone() for name, p in world.model.named_parameters()}
    world.model = peft.get_peft_model(world.model, config)
    return world


def unlearn(world, **more):
    # gradients of A are zero while B is: the first step moves B alone
    return fu.unlearn(world.model, world.tokenizer, forget=world.forget, retain=world.retain, held_out=world.held_out,
                      steps=16, **more)  # fmt: skip


def test_unlearning_into_an_adapter_leaves_the_base_alone(adapted, accuracy):
    forget, retain = adapted.encoded(adapted.forget), adapted.encoded(adapted.retain)
    before = accuracy(adapted.model, forget)
    result = unlearn(adapted)
    assert all("lora_" in name for name in result.parameters)
    assert accuracy(adapted.model, forget) < before - 0.3 and accuracy(adapted.model, retain) > 0.8
    named = dict(adapted.model.base_model.model.named_parameters())
    for name, value in adapted.base.items():
        place = name if name in named else name.replace(".weight", ".base_layer.weight")
        assert torch.equal(named[place], value), name


def test_merged_is_the_same_model(adapted):
    unlearn(adapted)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        apart = adapted.model(input_ids=ids).logits
        merged = adapted.model.merge_and_unload()
        together = merged(input_ids=ids).logits
    assert not isinstance(merged, peft.PeftModel)
    assert (apart - together).abs().max() < 1e-4 * apart.abs().max()


def test_the_adapter_ships_alone(adapted, tmp_path, memorised):
    import copy

    unlearn(adapted)
    ids = torch.arange(9)[None]
    save_model(adapted.model, adapted.tokenizer, tmp_path / "adapter")
    files = {path.name: path.stat().st_size for path in (tmp_path / "adapter").iterdir()}
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files
    again = peft.PeftModel.from_pretrained(copy.deepcopy(memorised.model), tmp_path / "adapter").eval()
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, adapted.model(input_ids=ids).logits)


def test_a_kept_fisher_of_the_adapter(adapted, accuracy, tmp_path):
    """Adapters can be what a kept Fisher is of: rank x adapter weights, a small file."""
    with torch.no_grad():
        for name, p in adapted.model.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 1e-3)
    kept = fu.keep_fisher(adapted.model, adapted.tokenizer, adapted.forget + adapted.retain, rank=64)
    kept.save(tmp_path / "kept.safetensors")
    forget = adapted.encoded(adapted.forget)
    before = accuracy(adapted.model, forget)
    fu.unlearn(adapted.model, adapted.tokenizer, forget=adapted.forget, method="fisher-removal-retain-free",
               kept_fisher=tmp_path / "kept.safetensors", steps=8)  # fmt: skip
    assert accuracy(adapted.model, forget) < before - 0.3


def test_gradient_checkpointing_changes_nothing(adapted):
    import copy

    plain = copy.deepcopy(adapted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        adapted.model.gradient_checkpointing_enable()
    adapted.model.train()
    results = [unlearn(world) for world in (plain, adapted)]
    assert any("lora_B" in name and p.abs().max() > 0 for name, p in adapted.model.named_parameters())
    for name, p in plain.model.named_parameters():
        assert torch.equal(p, adapted.model.get_parameter(name)), name
    assert results[0].steps == results[1].steps
