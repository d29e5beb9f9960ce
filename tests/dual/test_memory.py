"""Recomputation of repeated blocks: the same numbers, whatever is kept."""

import pytest
import torch

from fastunlearn.dual import DualPass
from fastunlearn.dual.checks import memory_budget
from fastunlearn.errors import InvalidInputError

from .oracle import accumulators, chosen, directions, hessian, model_loss, relative_error, text_batch


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("memory", ["recompute", 1, 150_000])
def test_recomputed_blocks_give_the_same_bits(tiny_llama, memory, attention):
    model = tiny_llama(layers=4, attention=attention)
    parameters, batch = chosen(model), text_batch()
    v = directions(parameters, 2)
    stored, again = accumulators(parameters, 2), accumulators(parameters, 2)
    DualPass(model, parameters, model_loss, memory="store").hessian(batch, v, stored)
    DualPass(model, parameters, model_loss, memory=memory).hessian(batch, v, again)
    for name, value in stored.items():
        assert torch.equal(value, again[name]), name
    assert relative_error(stored, hessian(model, parameters, batch, v)[0]) < 1e-12


def test_recomputation_runs_blocks_again(tiny_llama):
    """A negative control: with "recompute" every block's own forward runs twice, with "store" once."""
    model = tiny_llama(layers=3)
    parameters, batch = chosen(model), text_batch()
    v, calls = directions(parameters, 1), []
    for block in model.model.layers:
        block.mlp.register_forward_hook(lambda *_: calls.append(1))
    for memory, expected in (("store", 3), ("recompute", 6)):
        calls.clear()
        DualPass(model, parameters, memory=memory).hessian(batch, v, accumulators(parameters, 1))
        assert len(calls) == expected


@pytest.mark.parametrize("free, held, expected", [
    (60 << 30, 12 << 30, 48 << 30), (1 << 30, 0, 2 << 30), (0, 0, 2 << 30), (90 << 30, -1, 60 << 30)])  # fmt: skip
def test_a_gpu_keeps_blocks_in_what_is_free(free, held, expected, monkeypatch):
    """``held``: by PyTorch, for later. The answer takes 2 GiB."""
    for name, value in {"mem_get_info": (free, 0), "memory_reserved": held + 7, "memory_allocated": 7}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert memory_budget("auto", 2 << 30, torch.device("cuda", 0)) == expected
    assert memory_budget("auto", 2 << 30) == 2 << 30
    assert memory_budget("auto", 1) == 768 << 20
    assert memory_budget(5, 2 << 30, torch.device("cuda", 0)) == 5


def test_memory_is_checked(tiny_llama):
    model = tiny_llama()
    with pytest.raises(InvalidInputError, match="memory='lots'"):
        DualPass(model, chosen(model), memory="lots")


def test_the_model_is_as_it_was(tiny_llama):
    model = tiny_llama()
    parameters, batch = chosen(model), text_batch()
    before = {n: dict(m.__dict__) for n, m in model.named_modules()}
    state = {n: p.clone() for n, p in parameters.items()}
    model.config.use_cache = True
    engine, v = DualPass(model, parameters, memory="recompute"), directions(parameters, 1)
    engine.hessian(batch, v, accumulators(parameters, 1))

    def broken(module, args):
        raise RuntimeError("broken on purpose")

    handle = model.model.layers[1].mlp.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="on purpose"):
        engine.hessian(batch, v, accumulators(parameters, 1))
    handle.remove()
    assert model.config.use_cache is True
    for name, module in model.named_modules():
        assert module.__dict__.keys() == before[name].keys(), name
    assert all(torch.equal(p, state[n]) and p.grad is None for n, p in parameters.items())
