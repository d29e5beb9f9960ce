"""Products, per-sample passes and plain forwards of one model in several threads at once, and a pass inside a pass,
which is refused."""

from __future__ import annotations

import threading

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

import fastunlearn as fu
from fastunlearn.errors import InvalidInputError

IDS = torch.randint(3, 53, (3, 7), generator=torch.Generator().manual_seed(1))
BATCH = {"input_ids": IDS, "labels": IDS}


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=53, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
            num_key_value_heads=1, initializer_range=0.2,
        )  # fmt: skip
        return LlamaForCausalLM(config).double().eval()


def at_once(*calls):
    """Runs the calls in a thread each, and raises what any of them raised."""
    raised = []

    def run(call):
        try:
            call()
        except Exception as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


def left_behind(model):
    hooks = [name for name, m in model.named_modules() if m._forward_hooks or m._forward_pre_hooks]
    return hooks + [name for name, m in model.named_modules() if "forward" in m.__dict__]


@pytest.mark.parametrize("memory", ["store", "recompute"])
def test_products_and_plain_forwards(model, memory):
    v = torch.randn(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    truth, logits = fu.Hessian(model, [BATCH]) @ v, model(IDS).logits.detach()
    done = threading.Event()

    def products():
        try:
            hessian = fu.Hessian(model, [BATCH], memory=memory, allow_unused=True)
            for _ in range(10):
                assert float((hessian @ v - truth).norm() / truth.norm()) < 1e-12
        finally:
            done.set()

    def forwards():
        while not done.is_set():
            with torch.no_grad():
                assert torch.equal(model(IDS).logits, logits)

    at_once(products, products, forwards)
    assert modeling_llama.apply_rotary_pos_emb.__qualname__ == "apply_rotary_pos_emb" and left_behind(model) == []


def test_per_sample_passes_and_plain_forwards(model):
    """Hooks hear their own thread alone; flags come back."""
    model.train()
    v = torch.randn(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    truth, logits = fu.LowRankFisher(model, [BATCH], 1e-2).solve(v), model(IDS).logits.detach()
    done = threading.Event()

    def solves(memory):
        try:
            for _ in range(2):
                found = fu.LowRankFisher(model, [BATCH], 1e-2, memory=memory).solve(v)
                assert float((found - truth).norm() / truth.norm()) < 1e-8
        finally:
            done.set()

    def forwards():
        while not done.is_set():
            assert torch.equal(model(IDS).logits.detach(), logits)

    at_once(lambda: solves("8GB"), lambda: solves("700KB"), forwards)
    assert left_behind(model) == [] and all(p.requires_grad for p in model.parameters())
    assert all(m.training for m in model.modules())
    model.eval()


def test_a_pass_inside_a_pass_is_refused():
    """It would read the other's values for its own, and say nothing."""
    model, other = torch.nn.Linear(3, 2).double(), torch.nn.Linear(3, 2).double()
    batch = {"x": torch.randn(4, 3, dtype=torch.float64)}

    def inner(model, batch):
        return model(batch["x"]).square().sum()

    def loss(model, batch):
        return fu.gradient(other, [batch], inner).norm() * inner(model, batch)

    with pytest.raises(InvalidInputError, match="outside of the loss"):
        fu.gradient(model, [batch], loss)
    fu.gradient(model, [batch], inner)
