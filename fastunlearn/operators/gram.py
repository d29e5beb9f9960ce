"""Gram matrices of per-sample gradients, summed over the parameters of each block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .blocks import Blocks
from .sample_gradients import SampleGradients
from .sources import Source, sources_gram
from .state import PassState

__all__ = ["gram_blocks"]


def gram_blocks(
    sides: Sequence[SampleGradients], pairs: Sequence[tuple[int, int]], blocks: Blocks, state: PassState | None = None
) -> dict[tuple[int, int], Tensor]:
    """For each pair (a, b) of sides, ``G_a G_b^T`` by block: (blocks, m_a, m_b) float64.

    All sides are of one model and one choice of parameters. They are captured together, group by group, so that
    no more than the first side's memory is used for factors; factors of a side that fits wholly are kept.
    ``state``: where the sums so far are written, to be taken up after a kill. Each parameter's Gram is computed in the
    gradients' dtype (sums at least float32) and added up in float64.
    """
    first = sides[0]
    limit = first.memory_bytes // 2  # the other half is for formed tiles
    shapes = {(a, b): (len(blocks), len(sides[a]), len(sides[b])) for a, b in pairs}
    out = {pair: torch.zeros(shape, dtype=torch.float64, device=first.device) for pair, shape in shapes.items()}
    done = _taken_up(out, state)
    with first.progress.task("Gram of the gradients", total=len(first.parameters), unit="tensor") as task:
        beside = 3 * sum(sums.nbytes for sums in out.values())  # they, a damped copy and its factor
        for name, found in together(sides, limit, beside):
            for a, b in pairs if name not in done else ():
                other = None if a == b else found[b]
                part = sources_gram(found[a], other, first.parameters[name].shape, first.memory_bytes // 8)
                out[a, b][blocks.of[name]] += part
            if state is not None and name not in done:
                done.append(name)
                held = {f"{a} {b}": tensor for (a, b), tensor in out.items()}
                state.step(held, {"done": done}, last=len(done) == len(first.parameters))
            task.advance(1)
    return out


def _taken_up(out: dict[tuple[int, int], Tensor], state: PassState | None) -> list[str]:
    """Fills ``out`` from the state of an earlier run; the names of the parameters that are in it already."""
    held, facts = state.load() if state is not None else ({}, {})
    for name, tensor in held.items():
        a, b = name.split()
        out[int(a), int(b)].copy_(tensor)
    return list(facts.get("done", []))


def together(
    sides: Sequence[SampleGradients], limit: int, beside: int = 0
) -> Iterator[tuple[str, list[list[Source]]]]:
    """Each parameter's name with its factors on every side, holding at most ``limit`` bytes of factors of all; in a
    walk ``beside`` bytes of the memory are others'."""
    first = sides[0]
    total = {name: sum(side.bytes_of(name) for side in sides) for name in first.parameters}
    if sum(total.values()) <= limit:
        found = [side.sources(list(first.parameters), keep=True) for side in sides]
        for name in first.parameters:
            yield name, [side[name] for side in found]
        return
    walks = [side.walk(first.memory_bytes // len(sides), beside // len(sides)) for side in sides]
    if all(walk is not None for walk in walks):
        for parts in zip(*(walk.passes() for walk in walks), strict=True):
            name = parts[0][0]
            assert all(part[0] == name for part in parts)
            yield name, [part[1] for part in parts]
        return
    for names in _cut(total, limit):
        found = [side.sources(names) for side in sides]
        for name in names:
            yield name, [side[name] for side in found]


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
