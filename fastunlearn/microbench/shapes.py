"""The models that whole-model benchmarks run on: real shapes, random weights (seeded), nothing to download."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastunlearn.errors import InvalidInputError

__all__ = ["SHAPES", "configuration", "empty_model", "make_batch", "make_model", "make_vector"]


def _llama(hidden: int, mlp: int, layers: int, heads: int, groups: int | None = None, vocabulary: int = 32000, **more):
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=groups or heads, max_position_embeddings=16384, **more,
    )  # fmt: skip


def _gpt2():
    from transformers import GPT2Config

    return GPT2Config(n_positions=1024, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0)


def _qwen3():
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
    )  # fmt: skip


#: Name -> a function that gives the configuration. The number is that of the weights in matrix products.
SHAPES = {
    "llama-tiny": lambda layers=1: _llama(32, 48, layers, 2, vocabulary=99),
    "llama-5m": lambda layers=4: _llama(256, 688, layers, 4, vocabulary=8192),
    "llama-42m": lambda layers=8: _llama(512, 1376, layers, 8),
    "llama-1b": lambda layers=16: _llama(2048, 8192, layers, 32, 8, 128256, tie_word_embeddings=True),
    "llama-8b": lambda layers=32: _llama(4096, 14336, layers, 32, 8, 128256),
    "gpt2-124m": _gpt2,
    "qwen3-0.6b": _qwen3,
}


def configuration(shape: str, model: str | None = None, **sizes):
    """The configuration of a shape, or of a model folder. Raises InvalidInputError for an unknown shape."""
    if model is not None:
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(model, local_files_only=True)
    if shape not in SHAPES:
        raise InvalidInputError(f"shape={shape!r} is unknown; use one of {', '.join(SHAPES)}")
    return SHAPES[shape](**sizes)


def empty_model(shape: str, model: str | None = None) -> nn.Module:
    """The model without weights, to count them."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(configuration(shape, model))


def make_model(
    shape: str, *, attention: str = "sdpa", dtype: torch.dtype = torch.float32, device: str = "cpu", **sizes
) -> nn.Module:
    """The model of ``shape`` with weights from seed 0, without dropout, in evaluation mode."""
    from transformers import AutoModelForCausalLM

    config = configuration(shape, **sizes)
    with torch.random.fork_rng(devices=[]):
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
