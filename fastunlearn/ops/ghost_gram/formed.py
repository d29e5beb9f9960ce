"""The Gram by way of per-sample gradients, formed in tiles of one weight matrix and multiplied.

``A_i = sum_{t in i} g_t x_t^T`` is formed for all samples, but only for a tile of the weight's rows
(and, where memory is very short, of its columns), so that the tile of all samples stays within
``memory_bytes``. The tiles' products add up to the Gram. Cost: ``N d_in d_out`` multiply-adds to form
and ``m^2 d_in d_out / 2`` to multiply; see README.md of this folder for when that is less than the ghost way.

On a GPU, factors of half precision stay so, and the formed gradients are rounded to bfloat16: both products then run on
the matrix units. What rounding P numbers of a gradient changes in K_ij is about 2^-9 P^-1/2 |a_i| |a_j|: less than that
its factors were rounded before.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops._gemm import matrix_units, nt, rounded_nt

from ._arguments import Side, accumulator, segments

WIDENED = 4096  # tokens of a half type that are widened at a time
PANEL = 128  # samples in a row panel of the symmetric product: below it, halving the work gains nothing
MIRRORED = 1024  # the same where a GPU mirrors, which is bound by launches in smaller ones


def tile_shape(samples: int, d_in: int, d_out: int, itemsize: int, memory_bytes: int) -> tuple[int, int]:
    """Rows and columns of the weight in one tile, so that ``samples`` tiles fit into ``memory_bytes``.

    Raises InvalidInputError where not even one weight element per sample fits.
    """
    elements = memory_bytes // (max(samples, 1) * itemsize)
    if elements < 1:
        raise InvalidInputError(
            f"memory_bytes={memory_bytes} does not hold one number for each of {samples} samples; "
            f"give at least {samples * itemsize}"
        )
    if elements >= d_in:
        return min(d_out, elements // d_in), d_in
    return 1, int(elements)


def _form(side: Side, rows: slice, columns: slice, buffer: Tensor) -> Tensor:
    """Every sample's gradient on one tile of the weight, (m, rows * columns), in ``buffer``."""
    dtype = buffer.dtype
    x, g = side.x[:, columns], side.g[:, rows]
    height, width = g.shape[1], x.shape[1]
    formed = buffer[: side.samples * height * width].view(side.samples, height, width)
    lengths = side.offsets.diff()
    if side.samples and side.tokens and bool((lengths == lengths[0]).all()):
        length = int(lengths[0])
        # Half types are widened a few samples at a time: a wide copy of all is what they were to save.
        step = side.samples if x.dtype == dtype else max(1, WIDENED // length)
        for first in range(0, side.samples, step):
            some = slice(first * length, (first + step) * length)
            left, right = g[some].to(dtype).view(-1, length, height), x[some].to(dtype).view(-1, length, width)
            torch.bmm(left.transpose(1, 2), right, out=formed[first : first + step])
    else:
        bounds = side.offsets.tolist()
        for i, (a, b) in enumerate(itertools.pairwise(bounds)):
            torch.mm(g[a:b].T.to(dtype), x[a:b].to(dtype), out=formed[i]) if b > a else formed[i].zero_()
    return formed.view(side.samples, height * width)


def add_product(out: Tensor, a: Tensor, b: Tensor | None, rounded: bool = False) -> None:
    """``out += a @ b.T``; with b None the upper triangle (by panels) of ``a @ a.T`` only. ``rounded``: of a and b
    rounded to bfloat16, where they are not that already."""
    product = rounded_nt if rounded else nt
    if rounded:
        a, b = a.to(torch.bfloat16), None if b is None else b.to(torch.bfloat16)
    if b is not None:
        out += product(a, b)
        return
    for start in range(0, a.shape[0], PANEL):
        out[start : start + PANEL, start:] += product(a[start : start + PANEL], a[start:])


def mirror_upper(out: Tensor, source: Tensor | None = None) -> Tensor:
    """``out`` with the upper triangle of ``source`` (of itself without one) in both halves, panel by panel: nothing
    as large as ``out`` is made on the way. Any dtypes."""
    source, panel = out if source is None else source, MIRRORED if out.is_cuda else PANEL
    for start in range(0, out.shape[0], panel):
        own, after = slice(start, start + panel), slice(start + panel, None)
        block = source[own, own]
        out[own, own] = torch.triu(block) + torch.triu(block, 1).T
        if source is not out:
            out[own, after] = source[own, after]
        out[after, own] = out[own, after].T
    return out


def _tiles(d_out: int, d_in: int, height: int, width: int) -> Iterator[tuple[slice, slice]]:
    for row in range(0, d_out, height):
        for column in range(0, d_in, width):
            yield slice(row, min(row + height, d_out)), slice(column, min(column + width, d_in))


def formed_gram(first: Side, second: Side | None, bias: bool, out: Tensor, memory_bytes: int) -> Tensor:
    """K (m1, m2) into ``out``, holding at most ``memory_bytes`` of formed gradients at a time."""
    wide, rounded = accumulator(first.x.dtype), matrix_units(first.x)
    # float16 has too small a range for gradients: they are formed in float32.
    dtype = torch.bfloat16 if rounded and first.x.dtype == torch.bfloat16 else wide
    d_in, d_out = first.x.shape[1], first.g.shape[1]
    samples = first.samples + (second.samples if second else 0)
    height, width = tile_shape(samples, d_in, d_out, dtype.itemsize, memory_bytes)
    buffers = [
        torch.empty(side.samples * height * width, dtype=dtype, device=side.x.device)
        for side in (first, second)
        if side is not None
    ]
    out.zero_()
    for rows, columns in _tiles(d_out, d_in, height, width):
        a = _form(first, rows, columns, buffers[0])
        add_product(out, a, None if second is None else _form(second, rows, columns, buffers[1]), rounded)
    if bias:
        a = bias_gradients(first, wide)
        add_product(out, a, None if second is None else bias_gradients(second, wide))
    if second is None:
        mirror_upper(out)
    return out


def bias_gradients(side: Side, dtype: torch.dtype) -> Tensor:
    """Every sample's bias gradient, the sum of its rows of g: (m, d_out)."""
    index = segments(side.offsets, side.tokens).to(side.g.device)
    total = torch.zeros(side.samples, side.g.shape[1], dtype=dtype, device=side.g.device)
    return total.index_add_(0, index, side.g.to(dtype))
