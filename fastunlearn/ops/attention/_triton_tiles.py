"""Candidate tiles of the attention kernels: (queries, keys, warps, stages), best guess first.

A first guess is the largest tile that compiles without spilling registers, or with few; bench/results/triton-aot.json
has registers, spills and shared memory as compiled. What is fastest is timed on the GPU by ops/_triton.py. In float32
each product is three TF32 products, whose split operands fill the registers: small tiles, correct rather than fast.
"""

from __future__ import annotations

import torch

from fastunlearn.ops._triton import Tile, architecture

_Rows = tuple[tuple[int, int, int, int], ...]
_FORWARD: dict[tuple[str, int], _Rows] = {
    ("hopper", 64): ((128, 64, 8, 3), (64, 64, 4, 3), (64, 64, 4, 2)),
    ("hopper", 128): ((128, 32, 8, 2), (128, 64, 8, 2), (64, 32, 4, 2)),
    ("hopper", 256): ((64, 16, 8, 2), (64, 32, 8, 2), (32, 16, 8, 1)),
    ("ampere", 64): ((128, 64, 8, 2), (64, 32, 4, 2), (64, 64, 4, 2)),
    ("ampere", 128): ((128, 32, 8, 2), (64, 64, 8, 1)),
    ("ampere", 256): ((16, 16, 4, 1), (32, 16, 8, 1)),
    ("float32", 64): ((64, 32, 4, 1), (32, 16, 4, 1)),
    ("float32", 128): ((16, 16, 4, 1),),
    ("float32", 256): ((16, 16, 8, 1),),
}
_QUERIES: dict[tuple[str, int], _Rows] = {
    ("hopper", 64): ((128, 64, 8, 2), (64, 32, 4, 2), (64, 64, 4, 2)),
    ("hopper", 128): ((128, 16, 8, 2), (128, 32, 8, 2), (64, 32, 4, 2)),
    ("hopper", 256): ((16, 32, 8, 1), (64, 16, 8, 1)),
    ("ampere", 64): ((64, 32, 4, 2), (128, 64, 8, 2)),
    ("ampere", 128): ((64, 32, 8, 2), (32, 32, 8, 1), (16, 32, 4, 1)),
    ("ampere", 256): ((16, 32, 8, 1), (16, 16, 8, 1)),
    ("float32", 64): ((16, 16, 4, 1),),
    ("float32", 128): ((16, 16, 8, 1),),
    ("float32", 256): ((16, 16, 8, 1),),
}
_KEYS: dict[tuple[str, int], _Rows] = {
    ("hopper", 64): ((32, 128, 8, 2), (32, 64, 4, 2), (64, 128, 8, 2)),
    ("hopper", 128): ((16, 128, 8, 2), (32, 64, 4, 2), (32, 128, 8, 2), (64, 128, 8, 1)),
    ("hopper", 256): ((16, 32, 8, 1), (32, 32, 8, 1)),
    ("ampere", 64): ((32, 64, 8, 2), (32, 64, 4, 1)),
    ("ampere", 128): ((32, 32, 4, 1), (32, 64, 8, 2)),
    ("ampere", 256): ((16, 16, 4, 1), (16, 32, 8, 1)),
    ("float32", 64): ((16, 16, 4, 1),),
    ("float32", 128): ((16, 16, 8, 1),),
    ("float32", 256): ((16, 16, 8, 1),),
}


#: Of keys' and queries' adjoints in one kernel: where the larger accumulators leave it room.
_FUSED: dict[tuple[str, int], _Rows] = {("hopper", 64): ((32, 128, 8, 2), (32, 64, 4, 2))}


def _look_up(table: dict[tuple[str, int], _Rows], dtype: torch.dtype, head: int) -> tuple[Tile, ...]:
    kind = "float32" if dtype == torch.float32 else "hopper" if architecture() >= 90 else "ampere"
    width = 64 if head <= 64 else 128 if head <= 128 else 256
    found = table.get((kind, width), ())
    return tuple(Tile({"BLOCK_M": m, "BLOCK_N": n}, warps=w, stages=s) for m, n, w, s in found)


def forward_tiles(dtype: torch.dtype, head: int) -> tuple[Tile, ...]:
    return _look_up(_FORWARD, dtype, head)


def query_tiles(dtype: torch.dtype, head: int) -> tuple[Tile, ...]:
    return _look_up(_QUERIES, dtype, head)


def key_tiles(dtype: torch.dtype, head: int) -> tuple[Tile, ...]:
    """For one half, keys or values: both at once need twice the accumulators, and spill (24 products, not 21)."""
    return _look_up(_KEYS, dtype, head)


def fused_tiles(dtype: torch.dtype, head: int) -> tuple[Tile, ...]:
    """For keys and queries at once; none where that is not offered."""
    return _look_up(_FUSED, dtype, head)
