"""The ghost Gram as a Triton kernel (float32, bfloat16, float16), which uses Hopper's own matrix instructions.

A program makes a tile of token pairs, P = X1 X2^T + bias times Q = G1 G2^T, sums its columns by sample, then its rows
by running sums, which begin anew with each sample (neither a large one nor one that is no number shows in the next),
and adds them where a sample ends to a float64 matrix by atomics. Where every sample is one token there is nothing to
sum: its tile is that of the result, and is written there at once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastunlearn.ops._triton import Tile, hopper, interpreted, launch, precision, with_device
from fastunlearn.ops._triton_product import accumulate, banded

from ._arguments import Side, segments
from .formed import mirror_upper

__all__ = ["ghost_gram"]


@triton.jit
def _add(out, sums, i, j, samples, inside, twice, SYMMETRIC: tl.constexpr):
    """out[i, j] += sums; in a symmetric product only at i <= j, and doubled at i == j where ``twice``."""
    if SYMMETRIC:
        inside = inside & (i <= j)
        sums = tl.where((i == j) & twice, 2 * sums, sums)
    tl.atomic_add(out + i.to(tl.int64) * samples + j, sums, mask=inside, sem="relaxed")


@triton.jit
def _write(out, w, m, n, N1, N2, samples, SYMMETRIC: tl.constexpr):
    """out[m, n] = w; in a symmetric product at m <= n alone, and the same at out[n, m]."""
    inside = (m < N1)[:, None] & (n < N2)[None, :]
    if SYMMETRIC:
        inside = inside & (m[:, None] <= n[None, :])
        mirrored = (n < N2)[:, None] & (m < N1)[None, :] & (m[None, :] <= n[:, None])
        tl.store(out + n[:, None].to(tl.int64) * samples + m[None, :], tl.trans(w), mask=mirrored)
    tl.store(out + m[:, None].to(tl.int64) * samples + n[None, :], w, mask=inside)


@triton.jit
def _running(before, its_owner, here, owner):
    """Sums within a sample. Tokens stand by samples, so the same owner on both sides is that of all between."""
    return tl.where(its_owner == owner, before + here, here), owner


@triton.jit
def _add_samples(
    out, w, owner1, owner2, row, column, N1, N2, samples, SYMMETRIC: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """The sums of a tile w by samples of both sides, added to out."""
    step = tl.arange(0, BLOCK)
    m, n = row * BLOCK + step, column * BLOCK + step
    here = tl.load(owner1 + m, mask=m < N1, other=-1)
    below = tl.load(owner1 + m + 1, mask=(m + 1 < N1) & (step + 1 < BLOCK), other=-1)
    of_column = tl.load(owner2 + n, mask=n < N2, other=-1)
    ends = (here != below) & (here >= 0)
    begin, end = tl.load(owner2 + column * BLOCK), tl.load(owner2 + tl.minimum((column + 1) * BLOCK, N2) - 1)
    for j in range(begin, end + 1):
        of_token = tl.sum(tl.where((of_column == j)[None, :], w, 0.0), 1)
        sums, _ = tl.associative_scan((of_token, here), 0, _running)
        _add(out, sums.to(tl.float64), here, j, samples, ends, row < column, SYMMETRIC)


@triton.jit
def gram_tiles(
    x1, g1, owner1, x2, g2, owner2, out, N1, N2, D_IN, D_OUT, samples, x1_n, x1_d, g1_n, g1_d, x2_n, x2_d, g2_n, g2_d,
    BIAS: tl.constexpr, SYMMETRIC: tl.constexpr, SINGLE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_L: tl.constexpr, BAND: tl.constexpr,
):  # fmt: skip
    """SINGLE: token m of a side is its sample m; out is float32, and written. Otherwise it is float64, and added to."""
    row, column = banded(tl.program_id(0), tl.cdiv(N2, BLOCK), tl.cdiv(N1, BLOCK), BAND)
    if SYMMETRIC and column < row:
        return
    step = tl.arange(0, BLOCK)
    m, n = row * BLOCK + step, column * BLOCK + step
    p = tl.zeros((BLOCK, BLOCK), tl.float32)
    p = accumulate(p, x1, x2, None, m, n, N1, N2, D_IN, x1_n, x1_d, x2_d, x2_n, False, PRECISION, BLOCK_L)
    q = tl.zeros((BLOCK, BLOCK), tl.float32)
    q = accumulate(q, g1, g2, None, m, n, N1, N2, D_OUT, g1_n, g1_d, g2_d, g2_n, False, PRECISION, BLOCK_L)
    if BIAS:
        p += 1.0
    w = p * q
    if SINGLE:
        _write(out, w, m, n, N1, N2, samples, SYMMETRIC)
    else:
        _add_samples(out, w, owner1, owner2, row, column, N1, N2, samples, SYMMETRIC, BLOCK)


def _tiles(dtype: torch.dtype) -> tuple[Tile, ...]:
    """Best guess first. Two products of a tile are in registers at once."""

    def tile(block: int, depth: int, warps: int, stages: int) -> Tile:
        return Tile({"BLOCK": block, "BLOCK_L": depth, "BAND": 8}, warps=warps, stages=stages)

    if interpreted():
        return (tile(32, 32, 4, 1),)
    if dtype == torch.float32:
        return tile(64, 16, 4, 2), tile(64, 32, 4, 2)
    if hopper():
        return tile(128, 64, 8, 4), tile(128, 64, 8, 3), tile(128, 128, 8, 2), tile(64, 64, 4, 4)
    return tile(128, 32, 8, 3), tile(128, 64, 8, 3), tile(64, 32, 4, 3)


def _single(*sides: Side) -> bool:
    """Whether every sample is one token, as far as offsets may be read: not while a CUDA graph is recorded."""
    return all(
        not side.offsets.is_cuda and side.samples == side.tokens and bool((side.offsets.diff() == 1).all())
        for side in sides
    )


def ghost_gram(first: Side, second: Side | None, bias: bool, out: Tensor) -> Tensor:
    """K (m1, m2) into ``out``. Partial sums are added by atomics in float64, so that their order shows in a float32
    result in the last bit at most, rarely. Scratch: one float64 matrix (m1, m2); none for samples of one token."""
    other = second or first
    if first.tokens == 0 or other.tokens == 0:
        return out.zero_()
    device, single = first.x.device, _single(first, other)
    if single:
        total, owners = out if out.is_contiguous() else torch.empty_like(out, memory_format=torch.contiguous_format), []
    else:
        total = torch.empty(out.shape, dtype=torch.float64, device=device)
        owners = [segments(side.offsets, side.tokens).to(device=device, dtype=torch.int32) for side in (first, other)]
    owner1, owner2 = owners or (None, None)
    arguments: dict = {
        "x1": first.x, "g1": first.g, "owner1": owner1, "x2": other.x, "g2": other.g, "owner2": owner2,
        "out": total, "N1": first.tokens, "N2": other.tokens, "D_IN": first.x.shape[1], "D_OUT": first.g.shape[1],
        "samples": other.samples, "BIAS": bias, "SYMMETRIC": second is None, "SINGLE": single,
        "PRECISION": precision(first.x.dtype),
    }  # fmt: skip
    for name in ("x1", "g1", "x2", "g2"):
        arguments |= dict(zip((f"{name}_n", f"{name}_d"), arguments[name].stride(), strict=True))

    def grid(tile: Tile) -> tuple[int]:
        block = tile.sizes["BLOCK"]
        return (-(-first.tokens // block) * -(-other.tokens // block),)

    matrices = (first.x, first.g, other.x, other.g)
    layout = (*(matrix.stride(1) == 1 for matrix in matrices), second is None, single, str(first.x.dtype))
    size = [min(8192, triton.next_power_of_2(v)) for v in (first.tokens, other.tokens, *matrices[0].shape[1:])]
    with with_device(total):
        launch(gram_tiles, grid, _tiles(first.x.dtype), arguments, (*layout, *size),
               reset=None if single else total.zero_)  # fmt: skip
        if second is None and not single:
            return mirror_upper(out, total)
    return out if total is out else out.copy_(total)
