"""The ghost Gram in plain PyTorch: this file defines the right answer.

For a linear layer with inputs ``x`` and output gradients ``g`` the gradient of sample i is
``A_i = sum_{t in i} g_t x_t^T`` and the inner product of two of them is

    K_ij = <A_i, A_j> = sum_{t in i, s in j} (x_t . x_s) (g_t . g_s),

with ``+ 1`` inside the first bracket where the layer has a bias (its input is a constant 1).
Every function walks over tiles of at most ``TILE x TILE`` tokens, so no token x token matrix exists.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from ._arguments import Side, accumulator, segments

TILE = 1024


def _add_tile(out: Tensor, tile: Tensor, rows: Tensor, columns: Tensor) -> None:
    """Adds ``tile`` (tokens x tokens) to ``out`` (samples x samples), summed by sample on both sides."""
    row_first, column_first = int(rows[0]), int(columns[0])
    row_count, column_count = int(rows[-1]) - row_first + 1, int(columns[-1]) - column_first + 1
    by_row = tile.new_zeros(row_count, tile.shape[1]).index_add_(0, (rows - row_first).to(tile.device), tile)
    summed = tile.new_zeros(row_count, column_count)
    summed.index_add_(1, (columns - column_first).to(tile.device), by_row)
    out[row_first : row_first + row_count, column_first : column_first + column_count] += summed


def ghost_gram(first: Side, second: Side | None, bias: bool, out: Tensor) -> Tensor:
    """K (m1, m2) into ``out``; ``second`` None means the first with itself (both halves are computed)."""
    second = first if second is None else second
    dtype = accumulator(first.x.dtype)
    rows, columns = segments(first.offsets, first.tokens), segments(second.offsets, second.tokens)
    out.zero_()
    for r in range(0, first.tokens, TILE):
        x1, g1 = first.x[r : r + TILE].to(dtype), first.g[r : r + TILE].to(dtype)
        for c in range(0, second.tokens, TILE):
            inputs = x1 @ second.x[c : c + TILE].to(dtype).T
            if bias:
                inputs += 1
            tile = inputs.mul_(g1 @ second.g[c : c + TILE].to(dtype).T)
            _add_tile(out, tile, rows[r : r + TILE], columns[c : c + TILE])
    return out


def embedding_gram(ids1, g1, offsets1, ids2, g2, offsets2, out: Tensor) -> Tensor:
    """K_ij = sum_{t in i, s in j} [id_t == id_s] g_t . g_s into ``out`` (m1, m2), token pair by token pair."""
    dtype = accumulator(g1.dtype)
    rows, columns = segments(offsets1, ids1.numel()), segments(offsets2, ids2.numel())
    out.zero_()
    for r in range(0, ids1.numel(), TILE):
        for c in range(0, ids2.numel(), TILE):
            tile = g1[r : r + TILE].to(dtype) @ g2[c : c + TILE].to(dtype).T
            tile *= ids1[r : r + TILE, None] == ids2[None, c : c + TILE]
            _add_tile(out, tile, rows[r : r + TILE], columns[c : c + TILE])
    return out


def embedding_linear_gram(ids1, e1, offsets1, x2, g2, offsets2, out: Tensor) -> Tensor:
    """K_ij = sum_{t in i, s in j} g2[s, id_t] (e1_t . x2_s) into ``out`` (m1, m2)."""
    dtype = accumulator(e1.dtype)
    rows, columns = segments(offsets1, ids1.numel()), segments(offsets2, x2.shape[0])
    out.zero_()
    for r in range(0, ids1.numel(), TILE):
        for c in range(0, x2.shape[0], TILE):
            tile = e1[r : r + TILE].to(dtype) @ x2[c : c + TILE].to(dtype).T
            tile *= g2[c : c + TILE].index_select(1, ids1[r : r + TILE]).to(dtype).T
            _add_tile(out, tile, rows[r : r + TILE], columns[c : c + TILE])
    return out


def sample_gradients(side: Side) -> Tensor:
    """Every sample's weight gradient ``sum_t g_t x_t^T`` as (m, d_out, d_in): for tests on small shapes only."""
    dtype = accumulator(side.x.dtype)
    bounds = side.offsets.tolist()
    parts = [
        side.g[a:b].to(dtype).T @ side.x[a:b].to(dtype) for a, b in itertools.pairwise(bounds)
    ]
    return torch.stack(parts) if parts else side.x.new_zeros(0, side.g.shape[1], side.x.shape[1], dtype=dtype)
