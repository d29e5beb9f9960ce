"""One or two matrix products summed in one kernel: ``out (+)= A1 B1 [+ A2 B2]``, the sum in float32, rounded once.

This is what a dual pass asks of GEMMs: ``xt W^T + x Wt^T``, ``h W + g Wt``, ``h^T x + g^T xt``. As two calls of a
library the first sum makes a round trip through memory, in half precision with a rounding. Transposes are strides.

The library's two calls with a float32 result round as the kernel does: they are timed beside it, and the faster of the
two is taken (ops/_triton.py). They cut long sums for small results, where this kernel has fewer tiles than the GPU has
processors.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._triton import Grid, Tile, hopper, interpreted, launch, precision, with_device

__all__ = ["accumulate", "banded", "library_product", "pair_product"]

TRIAL_ROWS = 16384  # of a result, when candidates are timed: enough to fill a GPU


@triton.jit
def accumulate(
    total, a, b, scale, m, n, M, N, L, a_m, a_l, b_l, b_n,
    SCALED: tl.constexpr, PRECISION: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    """total + A B for rows m of A (M, L) and columns n of B (L, N); those beyond M and N count as zeros."""
    step = tl.arange(0, BLOCK_L)
    left = a + m[:, None].to(tl.int64) * a_m + step[None, :].to(tl.int64) * a_l
    right = b + step[:, None].to(tl.int64) * b_l + n[None, :].to(tl.int64) * b_n
    for start in range(0, L, BLOCK_L):
        rest = step < L - start
        x = tl.load(left, mask=(m < M)[:, None] & rest[None, :], other=0.0)
        y = tl.load(right, mask=rest[:, None] & (n < N)[None, :], other=0.0)
        if SCALED:
            weight = tl.load(scale + start + step, mask=rest, other=0.0)
            x = (x.to(tl.float32) * weight[None, :]).to(x.dtype)
        total = tl.dot(x, y, total, input_precision=PRECISION)
        left += tl.cast(a_l, tl.int64) * BLOCK_L
        right += tl.cast(b_l, tl.int64) * BLOCK_L
    return total


@triton.jit
def banded(number, across, down, BAND: tl.constexpr):
    """Row and column of a program's tile, of across x down: in bands of BAND rows, so that neighbours in time share
    operands in the second cache."""
    band = number // (BAND * across) * BAND
    height = tl.minimum(down - band, BAND)
    within = number % (BAND * across)
    return band + within % height, within // height


@triton.jit
def products(
    a1, b1, a2, b2, out, scale, unit, M, N, L, a1_k, a1_m, a1_l, b1_k, b1_l, b1_n, a2_k, a2_m, a2_l, b2_k, b2_l, b2_n,
    out_k, out_m, out_n, PAIR: tl.constexpr, ADD: tl.constexpr, SCALED: tl.constexpr, IN_UNITS: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr, BAND: tl.constexpr,
):  # fmt: skip
    row, column = banded(tl.program_id(0), tl.cdiv(N, BLOCK_N), tl.cdiv(M, BLOCK_M), BAND)
    m = row * BLOCK_M + tl.arange(0, BLOCK_M)
    n = column * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.program_id(1).to(tl.int64)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    total = accumulate(
        total, a1 + k * a1_k, b1 + k * b1_k, scale, m, n, M, N, L, a1_m, a1_l, b1_l, b1_n, SCALED, PRECISION, BLOCK_L
    )
    if PAIR:
        total = accumulate(
            total, a2 + k * a2_k, b2 + k * b2_k, scale, m, n, M, N, L, a2_m, a2_l, b2_l, b2_n, SCALED, PRECISION,
            BLOCK_L,
        )  # fmt: skip
    at = out + k * out_k + m[:, None].to(tl.int64) * out_m + n[None, :].to(tl.int64) * out_n
    inside = (m < M)[:, None] & (n < N)[None, :]
    if IN_UNITS:
        total *= tl.load(unit)
    if ADD:
        total += tl.load(at, mask=inside, other=0.0)
    tl.store(at, total.to(out.dtype.element_ty), mask=inside)


def _tiles(dtype: torch.dtype) -> tuple[Tile, ...]:
    """Best guess first."""

    def tile(m: int, n: int, depth: int, warps: int, stages: int) -> Tile:
        return Tile({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_L": depth, "BAND": 8}, warps=warps, stages=stages)

    if interpreted():
        return (tile(64, 64, 32, 4, 1),)
    if dtype == torch.float32:
        return tile(64, 64, 32, 4, 2), tile(32, 64, 32, 4, 2)
    if hopper():
        return tile(128, 256, 64, 8, 3), tile(128, 128, 64, 8, 4), tile(128, 128, 64, 4, 3), tile(64, 128, 64, 4, 3)
    return tile(128, 128, 32, 4, 3), tile(128, 256, 32, 8, 3), tile(64, 128, 32, 4, 3)


def _streams(value: Tensor | None) -> tuple[int, int, int]:
    """Strides along K (0 where all streams share the matrix), rows and columns."""
    if value is None:
        return 0, 0, 0
    return (0, *value.stride()) if value.dim() == 2 else value.stride()


def _add_library(out: Tensor, a: Tensor, b: Tensor, add: bool) -> None:
    """out float32 (M, N) (+)= a b, factors of one dtype, by PyTorch's own product."""
    wide = {} if a.dtype == torch.float32 else {"out_dtype": torch.float32}
    if add:
        torch.addmm(out, a, b, out=out, **wide)
    else:
        torch.mm(a, b, out=out, **wide)


def library_product(arguments: dict) -> None:
    """What ``products`` computes, from its arguments, without scale and unit; a result in half precision by way of
    float32, a stream at a time, and not added to."""
    out, rows = arguments["out"], arguments["M"]

    def of(name: str, k: int, limit: int | None = None) -> Tensor:
        value = arguments[name] if arguments[name].dim() == 2 else arguments[name][k]
        return value if limit is None else value[:limit]

    for k, result in enumerate(out):
        wide = result if out.dtype == torch.float32 else torch.empty(result.shape, device=out.device)
        _add_library(wide, of("a1", k, rows), of("b1", k), arguments["ADD"])
        if arguments["PAIR"]:
            _add_library(wide, of("a2", k, rows), of("b2", k), True)
        if wide is not result:
            result.copy_(wide)


def pair_product(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor] | None, out: Tensor, *, add: bool = False,
    scale: Tensor | None = None, unit: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """``out[k] (+)= A1[k] B1[k] (+ A2[k] B2[k])`` for k < K, in place; returns out (K, M, N).

    A (K, M, L) or (M, L), B (K, L, N) or (L, N): any strides, one dtype of float32, bfloat16, float16. ``add`` keeps
    what is in out. ``scale`` float32 (L,) multiplies the terms of the sum over L (rounded to the dtype of A);
    ``unit``, one float32 number, the sum in float32.
    """
    (a1, b1), (a2, b2) = first, second or (None, None)
    count, rows, columns = out.shape
    depth = a1.shape[-1]
    assert (a1.shape[-2], *b1.shape[-2:]) == (rows, depth, columns)
    assert a2 is None or (a2.shape[-2:], b2.shape[-2:]) == (a1.shape[-2:], b1.shape[-2:])
    if out.numel() == 0:
        return out
    if depth == 0:
        return out if add else out.zero_()
    arguments = {
        "a1": a1, "b1": b1, "a2": a2, "b2": b2, "out": out, "scale": scale, "unit": unit, "M": rows,
        "N": columns, "L": depth,
        **dict(zip(("a1_k", "a1_m", "a1_l"), _streams(a1), strict=True)),
        **dict(zip(("b1_k", "b1_l", "b1_n"), _streams(b1), strict=True)),
        **dict(zip(("a2_k", "a2_m", "a2_l"), _streams(a2), strict=True)),
        **dict(zip(("b2_k", "b2_l", "b2_n"), _streams(b2), strict=True)),
        **dict(zip(("out_k", "out_m", "out_n"), out.stride(), strict=True)),
        "PAIR": second is not None, "ADD": add, "SCALED": scale is not None, "IN_UNITS": unit is not None,
        "PRECISION": precision(a1.dtype),
    }  # fmt: skip

    def grid(tile: Tile, rows: int = rows, count: int = count) -> tuple[int, int]:
        return -(-rows // tile.sizes["BLOCK_M"]) * -(-columns // tile.sizes["BLOCK_N"]), count

    def trial() -> tuple[Grid, dict]:
        """Some of the rows of one stream, into memory of its own: nothing that is added to is touched."""
        some = min(rows, TRIAL_ROWS)
        into = torch.zeros(1, some, columns, dtype=out.dtype, device=out.device)
        strides = dict(zip(("out_k", "out_m", "out_n"), into.stride(), strict=True))
        return lambda tile: grid(tile, some, 1), arguments | {"out": into, "M": some, **strides}

    alike = scale is None and unit is None and (out.dtype == torch.float32 or not add)
    rival = library_product if alike else None
    layout = (a1.stride(-1) == 1, b1.stride(-1) == 1, second is not None, str(a1.dtype), str(out.dtype))
    size = [min(8192, triton.next_power_of_2(v)) for v in (rows, columns, depth)]
    with with_device(out):
        launch(products, grid, _tiles(a1.dtype), arguments, (*layout, add, *size), rival=rival, trial=trial)
    return out
