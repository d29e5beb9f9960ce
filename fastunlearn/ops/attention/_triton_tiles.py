"""Candidate tiles of the attention kernels, best guess first: the largest that compile without spilling registers.

The guesses rest on registers, spills and shared memory from ahead-of-time compilation (bench/device/aot_table.py,
bench/results/triton-aot.json); what is fastest is timed on the GPU by ops/_triton.py.
"""

from __future__ import annotations

import torch

from fastunlearn.ops._triton import Tile


def _tiles(*rows: tuple[int, int, int, int]) -> tuple[Tile, ...]:
    return tuple(Tile({"BLOCK_M": m, "BLOCK_N": n}, warps=w, stages=s) for m, n, w, s in rows)


def forward_tiles(dtype: torch.dtype, head: int, dual: bool) -> tuple[Tile, ...]:
    if dtype == torch.float32:
        return _tiles((64, 32, 4, 2), (32, 32, 4, 2)) if head <= 64 else _tiles((32, 32, 4, 2), (32, 16, 4, 1))
    if head <= 64:
        return _tiles((128, 64, 8, 3), (128, 64, 4, 2), (64, 64, 4, 3), (64, 64, 4, 2))
    if head <= 128:
        return _tiles((128, 64, 8, 2), (64, 64, 4, 2), (64, 32, 4, 2))
    return _tiles((64, 32, 8, 2), (64, 32, 4, 2), (32, 32, 4, 1))


def query_tiles(dtype: torch.dtype, head: int, dual: bool) -> tuple[Tile, ...]:
    if dtype == torch.float32:
        return _tiles((32, 32, 4, 1)) if head <= 128 else _tiles((16, 16, 4, 1))
    if head <= 64:
        return _tiles((64, 64, 4, 2), (128, 64, 8, 2), (64, 32, 4, 2))
    if head <= 128:
        return _tiles((64, 32, 4, 2), (64, 64, 8, 2), (64, 32, 8, 1))
    return _tiles((64, 32, 8, 1), (32, 32, 4, 1), (32, 16, 4, 1))


def key_tiles(dtype: torch.dtype, head: int, dual: bool) -> tuple[tuple[Tile, ...], bool]:
    """The tiles, and whether keys and values are two launches."""
    if dtype == torch.float32:
        return (_tiles((32, 32, 4, 1)) if head <= 64 else _tiles((16, 32, 4, 1)) if head <= 128 else _tiles((16, 16, 4, 1))), True
    if head <= 64:
        return _tiles((32, 64, 4, 2), (64, 64, 8, 2), (64, 128, 8, 2)), False
    if head <= 128:
        return _tiles((32, 64, 4, 2), (64, 64, 8, 2), (32, 64, 8, 1)), True
    return _tiles((32, 64, 8, 1), (32, 32, 8, 1), (16, 32, 4, 1)), True
