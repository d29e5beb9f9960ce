"""The Gram of embedding gradients without comparing every pair of tokens.

The input of an embedding is one-hot, so only tokens with the same id meet. The rows of g are first summed
by (id, sample); then each id contributes a small product between the samples in which it occurs. Ids are
batched by how many samples they have (rounded up to a power of two), so the whole takes a few batched
products. Works the same on every device, in plain PyTorch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._arguments import accumulator, segments

CHUNK_ELEMENTS = 1 << 24  # numbers in one padded batch: bounds the scratch memory to some 64 MB in float32


class _ById:
    """Rows of g summed by (id, sample): ``sums`` (p, d), ``samples`` (p,), and where each id's rows start."""

    def __init__(self, ids: Tensor, g: Tensor, offsets: Tensor):
        owner = segments(offsets, ids.numel()).to(ids.device)
        count = max(offsets.numel() - 1, 1)
        pairs, index = torch.unique(ids * count + owner, return_inverse=True)
        dtype = accumulator(g.dtype)
        self.sums = torch.zeros(pairs.numel(), g.shape[1], dtype=dtype, device=g.device)
        self.sums.index_add_(0, index, g.to(dtype))
        self.samples = pairs % count
        self.ids, self.counts = torch.unique_consecutive(pairs // count, return_counts=True)
        self.starts = self.counts.cumsum(0) - self.counts

    def select(self, keep: Tensor) -> tuple[Tensor, Tensor]:
        return self.starts[keep], self.counts[keep]

    def padded(self, starts: Tensor, counts: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """(ids, width, d) sums and (ids, width) sample numbers; padding has zero sums."""
        step = torch.arange(width, device=starts.device)
        inside = step[None] < counts[:, None]
        row = torch.where(inside, starts[:, None] + step[None], 0)
        return self.sums[row] * inside[..., None], self.samples[row]


def _power_above(counts: Tensor) -> Tensor:
    """The exponent of the smallest power of two that is at least ``counts``, exactly."""
    powers = 2 ** torch.arange(62, device=counts.device)
    return torch.searchsorted(powers, counts)


def embedding_gram(ids1, g1, offsets1, ids2, g2, offsets2, out: Tensor) -> Tensor:
    """K_ij = sum [id_t == id_s] g_t . g_s into ``out`` (m1, m2)."""
    first = _ById(ids1, g1, offsets1)
    second = first if ids2 is ids1 and g2 is g1 and offsets2 is offsets1 else _ById(ids2, g2, offsets2)
    width = g1.shape[1]
    shared = torch.isin(first.ids, second.ids)
    starts1, counts1 = first.select(shared)
    starts2, counts2 = second.select(torch.isin(second.ids, first.ids))  # both sorted by id: they pair up
    columns = out.shape[1]
    total = torch.zeros(out.numel(), dtype=out.dtype, device=out.device)
    buckets = _power_above(counts1) * 64 + _power_above(counts2)
    for bucket in torch.unique(buckets).tolist():
        members = torch.nonzero(buckets == bucket).squeeze(1)
        high1, high2 = 2 ** (bucket // 64), 2 ** (bucket % 64)
        step = max(1, CHUNK_ELEMENTS // ((high1 + high2) * width + 2 * high1 * high2))
        for some in members.split(step):
            a, rows = first.padded(starts1[some], counts1[some], high1)
            b, others = second.padded(starts2[some], counts2[some], high2)
            place = rows[:, :, None] * columns + others[:, None, :]
            total.index_add_(0, place.flatten(), torch.bmm(a, b.transpose(1, 2)).flatten())
    return out.copy_(total.view(out.shape))
