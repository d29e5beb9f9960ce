"""A Llama with fused attention (PyTorch's SDPA), random weights, and a batch of random tokens: nothing to download."""

from __future__ import annotations

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM


def make(tokens: int = 128) -> tuple[nn.Module, dict]:
    """(model, batch): 2.4 million weights, one sequence of ``tokens``."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2000, hidden_size=256, intermediate_size=688, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, use_cache=False, attn_implementation="sdpa",
    )  # fmt: skip
    ids = torch.randint(config.vocab_size, (1, tokens))
    return LlamaForCausalLM(config).eval(), {"input_ids": ids, "labels": ids}


class Logits(nn.Module):
    """Token ids to logits (tokens, vocabulary), as tools for classifiers want a model."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=ids).logits.flatten(0, 1)


def refusal(run) -> str:
    """What ``run`` fails with, in one line."""
    try:
        run()
    except (RuntimeError, NotImplementedError) as error:
        return str(error).splitlines()[0][:110]
    return "nothing: it works here"
