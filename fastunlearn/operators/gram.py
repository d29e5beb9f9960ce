"""Gram matrices of per-sample gradients, summed over the parameters of each block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .blocks import Blocks
from .sample_gradients import SampleGradients
from .sources import Source, source_gram

__all__ = ["gram_blocks"]


def _parameter_gram(a: list[Source], b: list[Source] | None, memory_bytes: int) -> Tensor:
    """(m_a, m_b) for one parameter with several uses: all uses of one side meet all uses of the other."""
    if b is not None:
        return sum(source_gram(s, t, memory_bytes).double() for s in a for t in b)
    total = sum(source_gram(s, None, memory_bytes).double() for s in a)
    for i, s in enumerate(a):
        for t in a[i + 1 :]:
            cross = source_gram(s, t, memory_bytes).double()
            total = total + cross + cross.T
    return total


def gram_blocks(
    sides: Sequence[SampleGradients], pairs: Sequence[tuple[int, int]], blocks: Blocks
) -> dict[tuple[int, int], Tensor]:
    """For each pair (a, b) of sides, ``G_a G_b^T`` by block: (blocks, m_a, m_b) float64.

    All sides are of one model and one choice of parameters. They are captured together, group by group, so that
    no more than the first side's memory is used for factors; factors of a side that fits wholly are kept.
    Each parameter's Gram is computed in the gradients' dtype (sums at least float32) and added up in float64.
    """
    first = sides[0]
    limit = first.memory_bytes // 2  # the other half is for formed tiles
    total_bytes = {name: sum(side.bytes_of(name) for side in sides) for name in first.parameters}
    groups = _cut(total_bytes, limit) if sum(total_bytes.values()) > limit else [list(first.parameters)]
    shapes = {(a, b): (len(blocks), len(sides[a]), len(sides[b])) for a, b in pairs}
    out = {pair: torch.zeros(shape, dtype=torch.float64, device=first.device) for pair, shape in shapes.items()}
    for names in groups:
        found = [side.sources(names, keep=len(groups) == 1) for side in sides]
        with first.progress.task("Gram of the gradients", total=len(names), unit="tensor") as task:
            for name in names:
                for a, b in pairs:
                    other = None if a == b else found[b][name]
                    out[a, b][blocks.of[name]] += _parameter_gram(found[a][name], other, limit)
                task.advance(1)
    return out


def _cut(sizes: dict[str, int], limit: int) -> list[list[str]]:
    """Names in order, cut so that each group's sizes add up to at most ``limit`` (one alone may exceed it)."""
    groups: list[list[str]] = [[]]
    room = limit
    for name, size in sizes.items():
        if size > room and groups[-1]:
            groups.append([])
            room = limit
        groups[-1].append(name)
        room -= size
    return groups
