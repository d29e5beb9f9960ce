"""The small models that comparisons are made on."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

__all__ = ["make_model"]


def make_model(tokenizer, seed: int, *, layers: int = 4, width: int = 128, context: int = 32) -> LlamaForCausalLM:
    """A Llama-shaped model with tied embeddings; its weights depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=8 * round(width / 3),
            num_attention_heads=4, num_key_value_heads=4, num_hidden_layers=layers,
            max_position_embeddings=context, tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        return LlamaForCausalLM(config).eval()
