"""What training stacks put around a model: activation checkpointing and autocast."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM

import fastunlearn as fu

SIZES = {
    "vocab_size": 53, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
STILL = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
IDS = torch.randint(3, 53, (2, 7), generator=torch.Generator().manual_seed(1))


def gradients(model):
    loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind, dtype", [("llama", torch.float32), ("llama", torch.float64), ("gpt2", torch.float32)])
def test_checkpointing(kind, dtype, reentrant):
    """A block is run again in the backward by itself, outside of the model's forward."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **SIZES, **(STILL if kind == "gpt2" else {}))
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").to(dtype).train()
    truth = gradients(model)
    for accelerate_first in (False, True):
        handle = fu.accelerate(model) if accelerate_first else None
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        handle = handle or fu.accelerate(model)
        loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
        loss.backward()
        found = torch.cat([p.grad.flatten() for p in model.parameters()])
        assert float((found - truth).norm() / truth.norm()) < (1e-5 if dtype == torch.float32 else 1e-7)
        handle.undo()
        assert not any("forward" in m.__dict__ for m in model.modules())
        model.gradient_checkpointing_disable()
        model.zero_grad()


CALLS = {
    "cross_entropy": lambda x, q: F.cross_entropy(x, torch.arange(6)),
    "log_softmax": lambda x, q: F.log_softmax(x, -1),
    "silu": lambda x, q: F.silu(x),
    "gelu": lambda x, q: F.gelu(x),
    "layer_norm": lambda x, q: F.layer_norm(x, (8,)),
    "rms_norm": lambda x, q: F.rms_norm(x, (8,), eps=1e-5),
    "attention": lambda x, q: F.scaled_dot_product_attention(q, q, q, attn_mask=torch.zeros_like(q[0, 0, :, :4])),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CALLS)
def test_autocast(name, dtype):
    """Results in the dtype that PyTorch gives, and as close to float64 as PyTorch's."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(6, 8, generator=generator).to(dtype).requires_grad_()
    q = torch.randn(1, 2, 4, 8, generator=generator).to(dtype).requires_grad_()
    with torch.no_grad():
        truth = CALLS[name](x.double(), q.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        own = CALLS[name](x, q)
        with fu.accelerated():
            found = CALLS[name](x, q)
        assert torch.is_autocast_enabled("cpu")
    assert found.dtype == own.dtype
    theirs, ours = ((one.detach().double() - truth).abs().max() / truth.abs().max() for one in (own, found))
    assert float(ours) <= max(2 * float(theirs), 2 * torch.finfo(own.dtype).eps)
    leaf = q if name == "attention" else x
    (g,) = torch.autograd.grad(found.double().square().sum(), leaf)
    assert g.dtype == dtype and bool(g.isfinite().all())


class Pieces(torch.nn.Module):
    """Functions, not modules, are checkpointed; one inside the other."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = torch.nn.Linear(6, 6), torch.nn.LayerNorm(6)

    def inner(self, x):
        return F.gelu(self.norm(x))

    def outer(self, x):
        return checkpoint(self.inner, F.silu(self.linear(x)), use_reentrant=False)

    def forward(self, x):
        return checkpoint(self.outer, x, use_reentrant=False).square().sum()


def product(model, x):
    parameters = list(model.parameters())
    gradient = torch.autograd.grad(model(x), parameters, create_graph=True)
    return torch.cat([h.flatten() for h in torch.autograd.grad(sum(g.square().sum() for g in gradient), parameters)])


def test_checkpointed_functions():
    """They run again in the backward with the functions that they had, whoever replaced these."""
    torch.manual_seed(0)
    model, x = Pieces().double(), torch.randn(3, 6, dtype=torch.float64)
    truth = product(model, x)
    with fu.accelerate(model):
        torch.testing.assert_close(product(model, x), truth, rtol=1e-9, atol=1e-9)
        with fu.accelerated():
            torch.testing.assert_close(product(model, x), truth, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(product(model, x), truth)
    with fu.accelerated():
        loss = model(x)
    loss.backward()  # outside of it
    with fu.accelerate(model.norm):  # the checkpoint begins before the replacement: the rest stays PyTorch's own
        torch.testing.assert_close(product(model, x), truth, rtol=1e-9, atol=1e-9)
