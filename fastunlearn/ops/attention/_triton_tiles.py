"""Candidate tiles of the attention kernels: (queries, keys, warps, stages), best guess first.

A first guess is the largest tile that compiles without spilling registers, or with few; bench/results/triton-aot.json
has registers, spills and shared memory as compiled. What is fastest is timed on the GPU by ops/_triton.py.

Some have a fifth number: how many of a head's columns are loaded at a time for the scores, 0 for all. In float32 each
product is three TF32 products, and the split operands of whole rows fill the registers; so do whole rows of wide heads.
"""

from __future__ import annotations

import torch

from fastunlearn.ops._triton import Tile, hopper, interpreted, next_power_of_2

_Rows = tuple[tuple[int, ...], ...]
_FORWARD: dict[tuple[str, int], _Rows] = {
    ("hopper", 64): ((128, 64, 8, 3, 0), (64, 64, 4, 3, 0), (64, 64, 4, 2, 0)),
    ("hopper", 128): ((128, 32, 8, 2, 0), (128, 64, 8, 2, 0), (64, 32, 4, 2, 0)),
    ("hopper", 256): ((64, 16, 8, 2, 32), (64, 32, 8, 2, 32), (64, 16, 8, 2, 0)),
    ("ampere", 64): ((128, 64, 8, 2, 0), (64, 32, 4, 2, 0), (64, 64, 4, 2, 0)),
    ("ampere", 128): ((128, 32, 8, 2, 0), (64, 64, 8, 1, 0)),
    ("ampere", 256): ((64, 32, 8, 2, 32), (64, 16, 8, 2, 32), (16, 16, 4, 1, 0)),
    ("float32", 64): ((64, 32, 4, 2, 16), (64, 16, 4, 2, 16), (32, 16, 4, 1, 0)),
    ("float32", 128): ((32, 16, 4, 2, 16), (64, 16, 8, 2, 16), (16, 16, 4, 1, 0)),
    ("float32", 256): ((32, 16, 8, 2, 16), (16, 16, 8, 2, 16), (16, 16, 8, 1, 0)),
}
#: Sums beside scores: where the registers hold both, if need be with some spilled. Wider heads are stored.
_QUERIES: dict[tuple[str, int], _Rows] = {
    ("hopper", 64): ((128, 64, 8, 2), (64, 32, 4, 2), (64, 64, 4, 2)),
    ("hopper", 128): ((128, 16, 8, 2), (128, 32, 8, 2), (64, 32, 4, 2)),
    ("ampere", 64): ((64, 32, 4, 2), (128, 64, 8, 2)),
    ("ampere", 128): ((64, 32, 8, 2), (32, 32, 8, 1), (16, 32, 4, 1)),
    ("float32", 64): ((16, 16, 4, 1),),
}
_KEYS: dict[tuple[str, int], _Rows] = {
    ("hopper", 64): ((32, 128, 8, 2), (32, 64, 4, 2), (64, 128, 8, 2)),
    ("hopper", 128): ((16, 128, 8, 2), (32, 64, 4, 2), (32, 128, 8, 2), (64, 128, 8, 1)),
    ("ampere", 64): ((16, 64, 4, 2), (32, 64, 8, 2), (32, 64, 8, 1)),
    ("ampere", 128): ((32, 32, 4, 1), (32, 64, 8, 2)),
    ("float32", 64): ((16, 16, 4, 1),),
}
#: Of keys' and queries' adjoints in one kernel: where the larger accumulators leave it room.
_FUSED: dict[tuple[str, int], _Rows] = {("hopper", 64): ((32, 128, 8, 2), (32, 64, 4, 2))}
#: Of queries' sums where the tiles are stored too: where those of _QUERIES would spill.
_STORING: dict[tuple[str, int], _Rows] = {("hopper", 64): ((128, 32, 8, 2), (64, 32, 4, 2))}
#: Of tiles that are stored, with no sums beside the scores. All sizes divide store_grain().
_STORE: dict[tuple[str, int], _Rows] = {
    ("hopper", 64): ((128, 64, 8, 2, 0), (64, 64, 4, 2, 0), (64, 64, 8, 2, 0)),
    ("hopper", 128): ((64, 64, 8, 2, 0), (128, 64, 8, 3, 32), (128, 32, 8, 2, 0)),
    ("hopper", 256): ((128, 64, 8, 3, 32), (64, 16, 4, 2, 0)),
    ("ampere", 64): ((64, 32, 4, 2, 0), (128, 64, 8, 2, 0)),
    ("ampere", 128): ((64, 32, 4, 2, 0), (128, 64, 8, 3, 32)),
    ("ampere", 256): ((128, 64, 8, 3, 32), (32, 16, 8, 2, 0)),
    ("float32", 64): ((64, 16, 4, 2, 0), (64, 32, 4, 2, 32)),
    ("float32", 128): ((64, 64, 8, 3, 16), (32, 16, 8, 2, 0)),
    ("float32", 256): ((64, 64, 8, 3, 16), (16, 16, 8, 1, 0)),
}
#: Of sums over them, by column_block: rows of the result, and how many terms at a time.
_SUMS: dict[tuple[str, int], _Rows] = {
    ("hopper", 64): ((128, 64, 8, 3), (128, 128, 8, 2), (64, 64, 4, 3)),
    ("hopper", 128): ((128, 64, 8, 3), (128, 32, 8, 4), (128, 64, 8, 2)),
    ("hopper", 256): ((32, 32, 4, 3),),
    ("ampere", 64): ((64, 32, 4, 3), (64, 64, 4, 3)),
    ("ampere", 128): ((64, 32, 8, 3), (64, 64, 8, 3)),
    ("ampere", 256): ((32, 32, 8, 2),),
    ("float32", 64): ((64, 16, 8, 3), (64, 32, 8, 2)),
    ("float32", 128): ((64, 16, 8, 2), (32, 32, 8, 2)),
    ("float32", 256): ((16, 32, 8, 1),),
}
# The interpreter: several tiles even for short sequences.
_SMALL, _SMALL_KEYS, _SMALL_PARTS = ((32, 16, 4, 2),), ((16, 32, 4, 2),), ((32, 16, 4, 2, 16), (32, 16, 4, 2, 0))


def _look_up(table: dict[tuple[str, int], _Rows], small: _Rows, dtype: torch.dtype, head: int) -> _Rows:
    kind = "float32" if dtype == torch.float32 else "hopper" if hopper() else "ampere"
    width = 64 if head <= 64 else 128 if head <= 128 else 256
    return small if interpreted() else table.get((kind, width), ())


def _in_parts(rows: _Rows, head: int) -> tuple[Tile, ...]:
    """Rows that end with how many columns are loaded at a time: those with fewer than there are, and those with all."""
    return tuple(_tile(row, PART=row[4]) for row in rows if row[4] < head)


def _tile(row: tuple[int, ...], names: tuple[str, str] = ("BLOCK_M", "BLOCK_N"), **more: int) -> Tile:
    return Tile({names[0]: row[0], names[1]: row[1], **more}, warps=row[2], stages=row[3])


def forward_tiles(dtype: torch.dtype, head: int) -> tuple[Tile, ...]:
    """``head``: columns of a head, of keys or of values, whichever has more."""
    return _in_parts(_look_up(_FORWARD, _SMALL_PARTS, dtype, head), head)


def query_tiles(dtype: torch.dtype, head: int) -> tuple[Tile, ...]:
    """None where sums and scores do not fit into the registers together."""
    return tuple(_tile(row, PART=0) for row in _look_up(_QUERIES, _SMALL, dtype, head))


def key_tiles(dtype: torch.dtype, head: int) -> tuple[Tile, ...]:
    """For one half, keys or values: both at once need twice the accumulators, and spill (24 products, not 21). None
    where there are none for queries."""
    return tuple(map(_tile, _look_up(_KEYS, _SMALL_KEYS, dtype, head)))


def fused_tiles(dtype: torch.dtype, head: int) -> tuple[Tile, ...]:
    """For keys and queries at once; none where that is not offered."""
    return tuple(map(_tile, _look_up(_FUSED, _SMALL_KEYS, dtype, head)))


def store_tiles(dtype: torch.dtype, head: int) -> tuple[Tile, ...]:
    return _in_parts(_look_up(_STORE, _SMALL_PARTS, dtype, head), head)


def storing_tiles(dtype: torch.dtype, head: int) -> tuple[Tile, ...]:
    """For queries' sums beside tiles that are stored."""
    return tuple(_tile(row, PART=0) for row in _look_up(_STORING, (), dtype, head)) or query_tiles(dtype, head)


def sum_tiles(dtype: torch.dtype, width: int) -> tuple[Tile, ...]:
    found = _look_up(_SUMS, ((16, 16, 4, 1),), dtype, width)
    return tuple(_tile(row, ("BLOCK_R", "BLOCK_L")) for row in found)


def column_block(width: int) -> int:
    """How many of a head's columns a program sums at a time: wide heads in parts, if they can be cut evenly."""
    even = next((n for n in (128, 64, 32) if width % n == 0), 0)
    return even if width > 128 and even else max(16, next_power_of_2(width))


def store_grain() -> int:
    """What the sizes of all tiles divide: stored tiles are written and read by squares of it."""
    return 32 if interpreted() else 128
