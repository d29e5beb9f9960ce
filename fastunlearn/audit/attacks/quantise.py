"""Quantisation to int8, int4 and NF4: does rounding bring back what small changes of the weights had hidden?

Source of the attack: Zhang et al. 2025, "Catastrophic Failure of LLM Unlearning via Quantization" (arXiv 2410.16454).
Rounding is simulated: the weights become the nearest numbers that the format can hold, in their own dtype. As in use,
the weights of linear layers are quantised, and embeddings, the output layer, norms and biases are not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from fastunlearn.audit.attacks.outcome import Outcome
from fastunlearn.audit.attacks.target import Target, private_copy
from fastunlearn.errors import InvalidInputError

__all__ = ["BlockSettings", "ChannelSettings", "int8_per_channel", "linear_weights", "normal_float4_values",
           "quantise_int4", "quantise_int8", "quantise_nf4", "round_blocks_int4", "round_blocks_nf4"]  # fmt: skip


@dataclass(frozen=True)
class ChannelSettings:
    """One scale for each output channel; there is nothing to set."""


@dataclass(frozen=True)
class BlockSettings:
    """``block``: weights that share a scale (64 in QLoRA)."""

    block: int = 64

    def __post_init__(self) -> None:
        if self.block < 1:
            raise InvalidInputError(f"block={self.block} must be at least 1; 64 is usual")


def int8_per_channel(weight: Tensor) -> Tensor:
    """``weight`` (out, in) rounded to int8, symmetric: round(w / s) s with s = max |w| / 127 of each row (Dettmers et
    al. 2022, arXiv 2208.07339, vector-wise, without its outlier columns). Float32 or wider inside."""
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    scale = wide.abs().amax(1, keepdim=True) / 127
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (torch.round(wide / scale) * scale).to(weight.dtype)


def _in_blocks(weight: Tensor, block: int, rounded: Callable[[Tensor], Tensor]) -> Tensor:
    """``rounded`` of the blocks (n, block) of the flattened weight, each divided by its largest size; the last block
    is filled up with zeros."""
    flat = weight.to(torch.promote_types(weight.dtype, torch.float32)).flatten()
    blocks = nn.functional.pad(flat, (0, -flat.numel() % block)).view(-1, block)
    scale = blocks.abs().amax(1, keepdim=True)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (rounded(blocks / scale) * scale).flatten()[: flat.numel()].view(weight.shape).to(weight.dtype)


def round_blocks_int4(weight: Tensor, block: int = 64) -> Tensor:
    """Symmetric int4: the 15 numbers -7..7 times max |w| / 7 of each block of the flattened weight, to the nearest."""
    return _in_blocks(weight, block, lambda unit: torch.round(unit * 7) / 7)


def normal_float4_values() -> Tensor:
    """The 16 values of NF4, float64, ascending in [-1, 1] (Dettmers et al. 2023, QLoRA, arXiv 2305.14314, appendix E).

    Quantiles of the standard normal distribution at even steps from ``end`` to 1/2, eight on the positive side and
    seven on the negative one, and 0, divided by the largest; ``end`` = 1 - (1/32 + 1/30) / 2 is the paper's.
    """
    end = 1 - (1 / 32 + 1 / 30) / 2
    positive = torch.special.ndtri(torch.linspace(end, 0.5, 9, dtype=torch.float64)[:-1])
    negative = -torch.special.ndtri(torch.linspace(end, 0.5, 8, dtype=torch.float64)[:-1])
    values = torch.cat([negative, torch.zeros(1, dtype=torch.float64), positive.flip(0)])
    return values / values.max()


def round_blocks_nf4(weight: Tensor, block: int = 64) -> Tensor:
    """NF4: the nearest of :func:`normal_float4_values` times max |w| of each block of the flattened weight."""
    values = normal_float4_values().to(weight.device)

    def rounded(unit: Tensor) -> Tensor:
        table = values.to(unit.dtype)
        return table[torch.bucketize(unit, (table[1:] + table[:-1]) / 2)]

    return _in_blocks(weight, block, rounded)


def linear_weights(model: nn.Module) -> list[tuple[nn.Parameter, bool]]:
    """The weights of linear layers that are neither the output layer's nor shared with an embedding, each with whether
    it is stored (in, out), as in GPT-2's Conv1D. Raises InvalidInputError where there is none."""
    from transformers.pytorch_utils import Conv1D

    spared = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is not None:
        spared |= {id(p) for p in head.parameters()}
    found = {
        id(module.weight): (module.weight, isinstance(module, Conv1D))
        for module in model.modules()
        if isinstance(module, (nn.Linear, Conv1D)) and id(module.weight) not in spared
    }
    if not found:
        raise InvalidInputError("model: has no linear layer beside its output layer, so nothing is to be quantised")
    return list(found.values())


def _attack(target: Target, rounded: Callable[[Tensor], Tensor]) -> Outcome:
    model = private_copy(target.model)
    weights = linear_weights(model)
    with torch.no_grad():
        for weight, transposed in weights:
            weight.copy_(rounded(weight.T).T if transposed else rounded(weight))
    facts = {"weights": sum(weight.numel() for weight, _ in weights)}
    return Outcome(target.before_and_after(model, target.sets["forget"]), facts)


def quantise_int8(target: Target, settings: ChannelSettings) -> Outcome:
    """int8, one scale per output channel."""
    return _attack(target, int8_per_channel)


def quantise_int4(target: Target, settings: BlockSettings) -> Outcome:
    """int4, one scale per block."""
    return _attack(target, partial(round_blocks_int4, block=settings.block))


def quantise_nf4(target: Target, settings: BlockSettings) -> Outcome:
    """NF4, one scale per block."""
    return _attack(target, partial(round_blocks_nf4, block=settings.block))
