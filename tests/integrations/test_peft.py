"""PEFT: adapters alone are the parameters."""

from __future__ import annotations

import pytest
import torch

import fastunlearn as fu
from tests.models.catalogue import build, make_batch
from tests.oracles.double_backward import DoubleBackward


@pytest.mark.parametrize(("name", "targets"), [("llama", ["q_proj", "down_proj"]), ("gpt2", ["c_attn"])])
def test_lora(name, targets):
    peft = pytest.importorskip("peft", reason="needs PEFT: pip install peft")
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
