"""Models as training stacks hand them over: prepared by accelerate, data parallel, compiled, spread or offloaded."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import fastunlearn as fu
from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.model_state import select_parameters
from fastunlearn.operators.wrapped import bare_model, unwrapped

STEP = {"method": "newton", "damping": 1e-2}


def unlearned(world, model):
    return fu.unlearn(model, world.tokenizer, forget=world.forget, retain=world.retain, **STEP)


def weights(model):
    return {name: p.detach().clone() for name, p in unwrapped(model).named_parameters()}


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_model_from_accelerate_is_unlearned_as_if_it_were_bare(world, precision):
    accelerate = pytest.importorskip("accelerate")
    bare = copy.deepcopy(world.model)
    unlearned(world, bare)
    accelerator = accelerate.Accelerator(mixed_precision=precision, cpu=True)
    prepared = accelerator.prepare(world.model)
    forward = prepared.forward
    result = unlearned(world, prepared)
    assert result.model is prepared and prepared.forward == forward  # the autocast is back around it
    for name, value in weights(accelerator.unwrap_model(prepared)).items():
        assert torch.equal(value, bare.get_parameter(name)), name


def test_accelerates_autocast_is_set_aside_and_put_back_after_an_error(world):
    accelerate = pytest.importorskip("accelerate")
    prepared = accelerate.Accelerator(mixed_precision="bf16", cpu=True).prepare(world.model)
    ids = torch.arange(6)[None]
    around = prepared(input_ids=ids).logits
    with pytest.raises(ZeroDivisionError), bare_model(prepared) as inner:
        exact = inner(input_ids=ids).logits
        1 / 0  # noqa: B018
    assert not torch.equal(exact, around) and torch.equal(prepared(input_ids=ids).logits, around)


def test_wrappers_come_off(world):
    parallel = nn.DataParallel(world.model)
    compiled = torch.compile(parallel)
    assert unwrapped(compiled) is world.model and unwrapped(world.model) is world.model
    before = weights(world.model)
    result = unlearned(world, compiled)
    assert result.model is compiled and not any(name.startswith("module.") for name in result.parameters)
    assert any(not torch.equal(value, before[name]) for name, value in weights(world.model).items())


def test_distributed_data_parallel_comes_off(world):
    class DistributedDataParallel(nn.Module):  # the real one needs a process group; it keeps the model in .module too
        def __init__(self, module):
            super().__init__()
            self.module = module

    assert unwrapped(DistributedDataParallel(world.model)) is world.model


def test_sharded_weights_are_refused(world):
    class FullyShardedDataParallel(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    with pytest.raises(InvalidInputError, match="FSDP"):
        fu.unlearn(FullyShardedDataParallel(world.model), world.tokenizer, forget=world.forget)
    world.model.model.norm.weight.ds_id = 0
    with pytest.raises(InvalidInputError, match="ZeRO-3"):
        fu.unlearn(world.model, world.tokenizer, forget=world.forget)


def test_offloaded_weights_are_refused(world, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model = accelerate.disk_offload(world.model, tmp_path)
    with pytest.raises(InvalidInputError, match="device_map offloaded it"):
        unlearned(world, model)
    with pytest.raises(InvalidInputError, match="meta device"):
        fu.Hessian(model, {"input_ids": torch.arange(4)[None], "labels": torch.arange(4)[None]})


def test_weights_on_several_devices_are_refused():
    def parameter(device):
        return nn.Parameter(torch.empty(2, device=device))

    model = SimpleNamespace(named_parameters=lambda: [("a", parameter("cpu")), ("b", parameter("meta"))])
    with pytest.raises(InvalidInputError, match=r"several devices \(cpu, meta\)"):
        select_parameters(model)
    assert list(select_parameters(model, "a")) == ["a"]


def test_a_model_loaded_with_a_device_map(world, tmp_path):
    pytest.importorskip("accelerate")
    from transformers import AutoModelForCausalLM

    world.model.save_pretrained(tmp_path / "model")
    options = {"device_map": {"": "cpu"}, "attn_implementation": "eager"}
    mapped = AutoModelForCausalLM.from_pretrained(tmp_path / "model", **options)
    unlearned(world, mapped)
    unlearned(world, world.model)
    for name, p in world.model.named_parameters():
        assert torch.equal(p, mapped.get_parameter(name)), name
