"""The models that whole-model benchmarks run on: real shapes, random weights (seeded), nothing to download."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["SHAPES", "make_batch", "make_model", "make_vector"]


def _llama(**sizes):
    from transformers import LlamaConfig

    return LlamaConfig(vocab_size=32000, max_position_embeddings=16384, **sizes)


def _gpt2():
    from transformers import GPT2Config

    return GPT2Config(n_positions=1024, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0)


def _qwen3():
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
    )  # fmt: skip


#: Name -> a function that gives the configuration. "llama-42m" has 42 million weights in its matrix products.
SHAPES = {
    "llama-42m": lambda layers=8: _llama(
        hidden_size=512, intermediate_size=1376, num_hidden_layers=layers, num_attention_heads=8, num_key_value_heads=8
    ),
    "gpt2-124m": _gpt2,
    "qwen3-0.6b": _qwen3,
}


def make_model(
    shape: str, *, attention: str = "sdpa", dtype: torch.dtype = torch.float32, device: str = "cpu", **sizes
) -> nn.Module:
    """The model of ``shape`` with weights from seed 0, without dropout, in evaluation mode."""
    from transformers import AutoModelForCausalLM

    config = SHAPES[shape](**sizes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
    model.config.use_cache = False
    return model.eval().to(device=device, dtype=dtype)


def make_batch(model: nn.Module, tokens: int, batch: int = 1) -> dict[str, Tensor]:
    """Random tokens, every one of them a target."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(model.config.vocab_size, (batch, tokens), generator=generator)
    ids = ids.to(next(model.parameters()).device)
    return {"input_ids": ids, "labels": ids}


def make_vector(model: nn.Module, columns: int | None = None) -> Tensor:
    """A flat vector (P,), or a matrix (P, columns), of 0.01 x standard normal, in the order of the parameters."""
    generator = torch.Generator().manual_seed(2)
    parameters = list(model.parameters())
    size = sum(p.numel() for p in parameters)
    shape = (size,) if columns is None else (size, columns)
    return (0.01 * torch.randn(shape, generator=generator)).to(parameters[0])
