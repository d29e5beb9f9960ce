"""Where a parameter's per-sample gradients come from, kept as small factors instead of as gradients.

A parameter's gradient for sample i is the sum of what each *use* of it gives. A use is kept as

    LinearSource     sum_{t in i} g_t x_t^T          x: inputs, g: gradients of the outputs, one row per token
    EmbeddingSource  sum_{t in i} e(id_t) g_t^T      e: one-hot
    RowsSource       the i-th row of an explicit matrix (biases, norms, and whatever has no rule)

Tokens of the m samples stand one after the other; ``offsets`` int64 (m + 1,) cuts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops.ghost_gram import embedding_gram, embedding_linear_gram, gram, rows_gram
from fastunlearn.ops.ghost_gram.formed import add_product, mirror_upper
from fastunlearn.ops.weighted_gradient import weighted_gradient

from .gemm import matrix_units, nt, wide_bmm
from .head import HeadSource

__all__ = ["EmbeddingSource", "LinearSource", "RowsSource", "Source", "by_length", "outer_sums", "source_gram",
           "sources_gram", "tiles", "weighted_sum"]  # fmt: skip

NARROW = 4096  # weights of a parameter whose explicit gradients are summed in float64
DOT_TOKENS = 4096  # tokens at a time in products with factors: bounds the scratch memory


def _wide(tensor: Tensor) -> Tensor:
    """At least float32. Factors are kept in the model's dtype; sums of them in bfloat16 would have two digits, and
    a solve takes differences of such sums, divided by the damping."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


@dataclass
class LinearSource:
    """x (N, d_in), g (N, d_out), offsets (m + 1,). ``transposed``: the weight is stored (d_in, d_out)."""

    x: Tensor
    g: Tensor
    offsets: Tensor
    transposed: bool = False

    def weighted(self, c: Tensor, shape: torch.Size) -> Tensor:
        if matrix_units(self.x, self.g):
            x, g = (self.g, self.x) if self.transposed else (self.x, self.g)
            out = torch.zeros(g.shape[1], x.shape[1], dtype=torch.float32, device=x.device)
            return weighted_gradient(x, g, _per_token(c, self.offsets).float(), out).view(shape)
        per_token, total = _per_token(c, self.offsets), None
        parts = (rows.split(DOT_TOKENS) for rows in (self.x, self.g, per_token))
        for x, g, own in zip(*parts, strict=True):
            left, x = _wide(g) * own[:, None].to(_wide(g).dtype), _wide(x)
            part = nt(x.T, left.T) if self.transposed else nt(left.T, x.T)
            total = part if total is None else total.add_(part)
        return _wide(self.g).new_zeros(shape) if total is None else total.view(shape)

    def dot(self, v: Tensor) -> Tensor:
        """(m, k) float64: ``sum_t g_t . (V x_t)`` for v (k, *weight shape), without a gradient in sight."""
        out = []
        for one in v:
            x, g = (self.g, self.x) if self.transposed else (self.x, self.g)
            parts = [
                (nt(_wide(a), one.to(_wide(a))) * _wide(b)).sum(1, dtype=torch.float64)
                for a, b in zip(x.split(DOT_TOKENS), g.split(DOT_TOKENS), strict=True)
            ]
            out.append(_by_sample(torch.cat(parts) if parts else x.new_zeros(0, dtype=torch.float64), self.offsets))
        return torch.stack(out, 1)

    def tile(self, low: int, high: int, shape: torch.Size) -> Tensor:
        rows, columns = (self.x, self.g) if self.transposed else (self.g, self.x)
        return outer_sums(rows[:, low:high], columns, self.offsets)


@dataclass
class EmbeddingSource:
    """ids int64 (N,), g (N, d), offsets (m + 1,)."""

    ids: Tensor
    g: Tensor
    offsets: Tensor

    def weighted(self, c: Tensor, shape: torch.Size) -> Tensor:
        left = _scaled(self.g, c, self.offsets)
        return left.new_zeros(shape).index_add_(0, self.ids, left)

    def dot(self, v: Tensor) -> Tensor:
        per_token = [(one[self.ids].to(_wide(self.g)) * self.g).sum(1, dtype=torch.float64) for one in v]
        return torch.stack([_by_sample(some, self.offsets) for some in per_token], 1)

    def tile(self, low: int, high: int, shape: torch.Size) -> Tensor:
        samples = self.offsets.numel() - 1
        inside = (self.ids >= low) & (self.ids < high)
        place = _owner(self.offsets)[inside] * (high - low) + self.ids[inside] - low
        chosen = _wide(self.g[inside])
        out = chosen.new_zeros(samples * (high - low), shape[1])
        return out.index_add_(0, place, chosen).view(samples, -1)


@dataclass
class RowsSource:
    """rows (m, p): explicit gradients, flat. Narrow ones (norms, biases) are summed in float64: as a block of their own
    their Gram is often singular or nearly so, and a solve magnifies what rounding leaves."""

    rows: Tensor

    def fine(self) -> Tensor:
        """The rows, in float64 where they are narrow."""
        return self.rows.double() if self.rows.shape[1] <= max(NARROW, self.rows.shape[0]) else _wide(self.rows)

    def weighted(self, c: Tensor, shape: torch.Size) -> Tensor:
        rows = self.fine()
        return (c.to(rows) @ rows).view(shape).to(_wide(self.rows).dtype)

    def dot(self, v: Tensor) -> Tensor:
        rows = _wide(self.rows)
        return torch.stack([(rows * one.to(rows).flatten()).sum(1, dtype=torch.float64) for one in v], 1)

    def tile(self, low: int, high: int, shape: torch.Size) -> Tensor:
        width = self.rows.shape[1] // shape[0] if len(shape) else 1
        return _wide(self.rows[:, low * width : high * width])


Source = LinearSource | EmbeddingSource | RowsSource | HeadSource


def _by_sample(per_token: Tensor, offsets: Tensor) -> Tensor:
    """Sums of consecutive tokens, by sample: (m,)."""
    return per_token.new_zeros(offsets.numel() - 1).index_add_(0, _owner(offsets), per_token)


def _owner(offsets: Tensor) -> Tensor:
    return torch.repeat_interleave(torch.arange(offsets.numel() - 1, device=offsets.device), offsets.diff())


def _per_token(c: Tensor, offsets: Tensor) -> Tensor:
    return torch.repeat_interleave(c.to(offsets.device), offsets.diff())


def _scaled(rows: Tensor, c: Tensor, offsets: Tensor) -> Tensor:
    """Each token's row times the weight of its sample."""
    rows = _wide(rows)
    return rows * _per_token(c, offsets)[:, None].to(rows.dtype)


def outer_sums(rows: Tensor, columns: Tensor, offsets: Tensor, buffer: Tensor | None = None) -> Tensor:
    """``sum_{t in i} rows_t columns_t^T``, flat: (m, height * width). Samples of one length share one product; where
    they stand together (:func:`by_length`) it is made in place. ``buffer``: flat, large enough for the result."""
    lengths = offsets.diff()
    m, height, width = lengths.numel(), rows.shape[1], columns.shape[1]
    if buffer is None:
        buffer = torch.empty(m * height * width, dtype=_wide(rows[:0]).dtype, device=rows.device)
    out = buffer[: m * height * width].view(m, height, width)
    together = bool((lengths.diff() >= 0).all())
    for length in torch.unique(lengths).tolist():
        which = torch.nonzero(lengths == length).squeeze(1)
        first, last = int(which[0]), int(which[-1]) + 1
        if length == 0:
            out[which] = 0
        elif together:
            token = slice(int(offsets[first]), int(offsets[last]))
            left, right = (side[token].reshape(last - first, length, -1) for side in (rows, columns))
            wide_bmm(left.transpose(1, 2), right, out[first:last])
        else:
            token = offsets[which][:, None] + torch.arange(length, device=offsets.device)
            out[which] = wide_bmm(rows[token].transpose(1, 2), columns[token], torch.empty_like(out[which]))
    return out.flatten(1)


def by_length(offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Samples from the shortest to the longest: their numbers (m,), their tokens (N,), and the offsets of these."""
    lengths = offsets.diff()
    order = torch.argsort(lengths, stable=True)
    sorted_offsets = torch.cat([offsets.new_zeros(1), lengths[order].cumsum(0)])
    start = torch.repeat_interleave(offsets[:-1][order] - sorted_offsets[:-1], lengths[order])
    return order, start + torch.arange(start.numel(), device=offsets.device), sorted_offsets


def _tiled_gram(a: list[Source], b: list[Source] | None, shape: torch.Size, memory_bytes: int) -> Tensor:
    """The Gram from formed tiles that hold all uses of the parameter at once: (m_a, m_b) float64."""
    counts = [_samples(side[0]) for side in (a, b or a)]
    total = torch.zeros(*counts, dtype=torch.float64, device=_device(a[0]))
    head = next(source for source in [*a, *(b or [])] if isinstance(source, HeadSource))
    rounded = matrix_units(head.x)
    room = memory_bytes // (1 if b is None else 2)
    step = min(tile_step(side, count, shape, room, True) for side, count in zip((a, b or a), counts, strict=True))
    if b is not None:
        sides = [tiles(side, count, shape, room, step=step) for side, count in zip((a, b), counts, strict=True)]
        for (_, tile), (_, other) in zip(*sides, strict=True):
            add_product(total, tile, other, rounded)
        return total
    for _, tile in tiles(a, counts[0], shape, room, step=step):
        add_product(total, tile, None, rounded)
    mirror_upper(total)
    return total


def _device(source: Source) -> torch.device:
    return source.rows.device if isinstance(source, RowsSource) else source.offsets.device


def _samples(source: Source) -> int:
    return source.rows.shape[0] if isinstance(source, RowsSource) else source.offsets.numel() - 1


def sources_gram(a: list[Source], b: list[Source] | None, shape: torch.Size, memory_bytes: int) -> Tensor:
    """Inner products (m_a, m_b) float64 of the gradients of one parameter with several uses; None: of a with itself.

    All uses of one side meet all uses of the other; with an output layer among them, by tiles that hold all.
    """
    if any(isinstance(source, HeadSource) for source in [*a, *(b or [])]):
        return _tiled_gram(a, b, shape, memory_bytes)
    if b is not None:
        return sum(source_gram(s, t, memory_bytes).double() for s in a for t in b)
    total = sum(source_gram(s, None, memory_bytes).double() for s in a)
    for i, s in enumerate(a):
        for t in a[i + 1 :]:
            cross = source_gram(s, t, memory_bytes).double()
            total = total + cross + cross.T
    return total


def source_gram(a: Source, b: Source | None, memory_bytes: int) -> Tensor:
    """Inner products of the gradients of two sources of one parameter, (m_a, m_b); None: of ``a`` with itself."""
    if isinstance(a, RowsSource):
        left, right = a.fine(), None if b is None else b.fine()
        if right is not None and left.dtype != right.dtype:
            left, right = left.double(), right.double()
        return rows_gram(left, right)
    other = a if b is None else b
    if isinstance(a, LinearSource) and isinstance(other, LinearSource):
        if a.transposed != other.transposed:
            raise InvalidInputError("a weight tied between a layer and its transpose has no rule: freeze it")
        second = () if b is None else (b.x, b.g, b.offsets)
        return gram(a.x, a.g, a.offsets, *second, memory_bytes=memory_bytes)
    if isinstance(a, EmbeddingSource) and isinstance(other, EmbeddingSource):
        second = () if b is None else (b.ids, b.g, b.offsets)
        return embedding_gram(a.ids, a.g, a.offsets, *second)
    if isinstance(a, EmbeddingSource):
        return embedding_linear_gram(a.ids, a.g, a.offsets, other.x, other.g, other.offsets)
    return embedding_linear_gram(other.ids, other.g, other.offsets, a.x, a.g, a.offsets).T


def weighted_sum(sources: list[Source], c: Tensor, shape: torch.Size) -> Tensor:
    """``sum_i c_i * (gradient of sample i)`` of one parameter, in its shape; c (m,)."""
    total = sources[0].weighted(c, shape)
    for source in sources[1:]:
        total = total + source.weighted(c, shape)
    return total


def tile_step(sources: list[Source], samples: int, shape: torch.Size, memory_bytes: int, tokens: bool = False) -> int:
    """Rows of the parameter in a tile of at most ``memory_bytes``; with ``tokens`` an output layer's gradient, which
    is made anew for each tile, counts too."""
    height = shape[0] if len(shape) else 1
    width = shape.numel() // max(height, 1)
    first = sources[0].rows if isinstance(sources[0], RowsSource) else sources[0].x if isinstance(
        sources[0], HeadSource) else sources[0].g
    each = samples * width * len(sources)
    if tokens:
        each += max((len(s.x) for s in sources if isinstance(s, HeadSource)), default=0)
    return max(1, memory_bytes // max(1, each * max(4, first.element_size())))


def tiles(
    sources: list[Source], samples: int, shape: torch.Size, memory_bytes: int, *, tokens: bool = False,
    step: int | None = None,
) -> Iterator[tuple[slice, Tensor]]:  # fmt: skip
    """The gradients of one parameter, formed a few rows of it at a time: (slice of the flat parameter,
    (m, width of the slice)). Each tile takes at most ``memory_bytes`` bytes, but at least one row."""
    height = shape[0] if len(shape) else 1
    width = shape.numel() // max(height, 1)
    step = step or tile_step(sources, samples, shape, memory_bytes, tokens)
    for low in range(0, height, step):
        high = min(height, low + step)
        tile = sources[0].tile(low, high, shape)
        for source in sources[1:]:
            tile = tile + source.tile(low, high, shape)
        yield slice(low * width, high * width), tile
