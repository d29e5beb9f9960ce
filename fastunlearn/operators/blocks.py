"""Blocks of parameters between which curvature is taken to be zero: the whole model, layers, or single tensors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fastunlearn.errors import InvalidInputError

__all__ = ["BLOCKS", "Blocks", "finest_that_fits", "make_blocks"]

BLOCKS = ("model", "layer", "tensor")


@dataclass(frozen=True)
class Blocks:
    """A partition of parameters: ``labels`` of the blocks, and the block number of each parameter by name."""

    kind: str
    labels: tuple[str, ...]
    of: dict[str, int]

    def __len__(self) -> int:
        return len(self.labels)


def _label(name: str, kind: str) -> str:
    if kind == "model":
        return "model"
    if kind == "tensor":
        return name
    numbered = re.match(r"^(.*?\.\d+)\.", name)  # model.layers.3.mlp.up_proj.weight -> model.layers.3
    return numbered.group(1) if numbered else name.rpartition(".")[0] or name


def make_blocks(names: Sequence[str], kind: str) -> Blocks:
    """``kind`` "model": one block; "layer": one per repeated layer, and one per module outside of them;
    "tensor": one per parameter. Raises InvalidInputError for another kind."""
    if kind not in BLOCKS:
        raise InvalidInputError(f"blocks={kind!r} is unknown; use one of {', '.join(BLOCKS)}")
    labels: dict[str, int] = {}
    of = {name: labels.setdefault(_label(name, kind), len(labels)) for name in names}
    return Blocks(kind, tuple(labels), of)


def finest_that_fits(names: Sequence[str], block_bytes: int, room: int) -> Blocks:
    """The most blocks of which each can take ``block_bytes`` within ``room`` bytes in all; one block in any case."""
    finest = (make_blocks(names, kind) for kind in reversed(BLOCKS[1:]))
    return next((one for one in finest if len(one) * block_bytes <= room), make_blocks(names, "model"))
