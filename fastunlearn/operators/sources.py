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

from .gemm import nt

__all__ = ["EmbeddingSource", "LinearSource", "RowsSource", "Source", "source_gram", "tiles", "weighted_sum"]

DOT_TOKENS = 4096  # tokens at a time in a product with a vector: bounds the scratch memory


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
        left, x = _scaled(self.g, c, self.offsets), _wide(self.x)
        return (x.T @ left if self.transposed else left.T @ x).view(shape)

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
        return _outer_sums(rows[:, low:high], columns, self.offsets)


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
    """rows (m, p): explicit gradients, flat."""

    rows: Tensor

    def weighted(self, c: Tensor, shape: torch.Size) -> Tensor:
        rows = _wide(self.rows)
        return (c.to(rows) @ rows).view(shape)

    def dot(self, v: Tensor) -> Tensor:
        rows = _wide(self.rows)
        return torch.stack([(rows * one.to(rows).flatten()).sum(1, dtype=torch.float64) for one in v], 1)

    def tile(self, low: int, high: int, shape: torch.Size) -> Tensor:
        width = self.rows.shape[1] // shape[0] if len(shape) else 1
        return _wide(self.rows[:, low * width : high * width])


Source = LinearSource | EmbeddingSource | RowsSource


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


def _outer_sums(rows: Tensor, columns: Tensor, offsets: Tensor) -> Tensor:
    """``sum_{t in i} rows_t columns_t^T``, flat: (m, height * width). Samples of one length share one product."""
    lengths = offsets.diff()
    dtype = torch.promote_types(rows.dtype, torch.float32)
    out = torch.zeros(lengths.numel(), rows.shape[1], columns.shape[1], dtype=dtype, device=rows.device)
    for length in torch.unique(lengths).tolist():
        if length == 0:
            continue
        which = torch.nonzero(lengths == length).squeeze(1)
        token = offsets[which][:, None] + torch.arange(length, device=offsets.device)
        out[which] = torch.bmm(_wide(rows[token]).transpose(1, 2), _wide(columns[token]))
    return out.flatten(1)


def source_gram(a: Source, b: Source | None, memory_bytes: int) -> Tensor:
    """Inner products of the gradients of two sources of one parameter, (m_a, m_b); None: of ``a`` with itself."""
    if isinstance(a, RowsSource):
        return rows_gram(a.rows, None if b is None else b.rows)
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


def tiles(sources: list[Source], samples: int, shape: torch.Size, memory_bytes: int) -> Iterator[tuple[slice, Tensor]]:
    """The gradients of one parameter, formed a few rows of it at a time: (slice of the flat parameter,
    (m, width of the slice)). Each tile takes at most ``memory_bytes`` bytes, but at least one row."""
    height = shape[0] if len(shape) else 1
    width = shape.numel() // max(height, 1)
    first = sources[0].rows if isinstance(sources[0], RowsSource) else sources[0].g
    step = max(1, memory_bytes // max(1, samples * width * max(4, first.element_size()) * len(sources)))
    for low in range(0, height, step):
        high = min(height, low + step)
        tile = sources[0].tile(low, high, shape)
        for source in sources[1:]:
            tile = tile + source.tile(low, high, shape)
        yield slice(low * width, high * width), tile
