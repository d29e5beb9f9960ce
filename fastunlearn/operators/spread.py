"""Per-sample gradients of samples that are spread over the processes of a torch.distributed group.

Every process holds the whole model and its own share of the samples; the samples of all stand one after the other, in
the order of ranks. Products are summed or gathered over the group, so every process gets the same answer. For the
Gram, the factors of one parameter at a time go from process to process; each pair of shares meets once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from .blocks import Blocks
from .head import HeadSource
from .sample_gradients import SampleGradients
from .sources import EmbeddingSource, LinearSource, RowsSource, Source, sources_gram

__all__ = ["SpreadGradients"]


class SpreadGradients:
    """The gradients ``local`` of every process, together. Every call is made by all processes of ``group``."""

    def __init__(self, local: SampleGradients, group: dist.ProcessGroup | None = None):
        self.local, self.group = local, group
        self.rank, self.world = dist.get_rank(group), dist.get_world_size(group)
        counts = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(counts, torch.tensor([len(local)]), group=group)
        self.counts = [int(count) for count in counts]
        self.starts = [sum(self.counts[:r]) for r in range(self.world)]
        self.parameters, self.memory_bytes, self.progress = local.parameters, local.memory_bytes, local.progress

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def device(self) -> torch.device:
        return self.local.device

    @property
    def _mine(self) -> slice:
        return slice(self.starts[self.rank], self.starts[self.rank] + self.counts[self.rank])

    def _sum(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        for tensor in found.values():
            dist.all_reduce(tensor, group=self.group)
        return found

    def weighted_gradient(self, c: Tensor, block_of: dict[str, int] | None = None) -> dict[str, Tensor]:
        """``G^T c``; see SampleGradients."""
        return self._sum(self.local.weighted_gradient(c[..., self._mine], block_of))

    def pull(self, weights: Tensor, block_of: dict[str, int]) -> dict[str, Tensor]:
        """``G^T W``; see SampleGradients."""
        return self._sum(self.local.pull(weights[:, self._mine], block_of))

    def weighted_squares(self, c: Tensor) -> dict[str, Tensor]:
        """See SampleGradients."""
        return self._sum(self.local.weighted_squares(c[self._mine]))

    def dot(self, vectors: dict[str, Tensor], block_of: dict[str, int] | None = None) -> Tensor:
        """``G V``; see SampleGradients."""
        own = self.local.dot(vectors, block_of)
        whole = own.new_zeros(*own.shape[:-2], len(self), own.shape[-1])
        whole[..., self._mine, :] = own
        dist.all_reduce(whole, group=self.group)
        return whole

    def forget_factors(self) -> None:
        self.local.forget_factors()

    def gram(self, blocks: Blocks) -> Tensor:
        """K by block, (blocks, m, m) float64, on every process."""
        size = sum(self.counts)
        total = torch.zeros(len(blocks), size, size, dtype=torch.float64, device=self.device)
        for name, own in self._passes():
            shape, block = self.parameters[name].shape, total[blocks.of[name]]
            block[self._mine, self._mine] += sources_gram(own, None, shape, self.memory_bytes // 2)
            for other in range(self.world):
                # The share of `other` goes to all; half of those that it meets work on the pair, it on the rest.
                theirs = self._broadcast(own, other, shape)
                if other == self.rank or (other > self.rank) != ((other + self.rank) % 2 == 0):
                    continue
                cross = sources_gram(own, theirs, shape, self.memory_bytes // 2)
                there = slice(self.starts[other], self.starts[other] + self.counts[other])
                block[self._mine, there] += cross
                block[there, self._mine] += cross.T
        dist.all_reduce(total, group=self.group)
        return total

    def _passes(self) -> Iterator[tuple[str, list[Source]]]:
        """The local factors, in an order that is the same on all processes: either all walk, or none."""
        local, limit = self.local, self.memory_bytes // 2
        need = torch.tensor([float(sum(local.bytes_of(name) for name in self.parameters)), 0.0])
        walk = local.walk(self.memory_bytes // 2) if need[0] > limit else None
        dist.all_reduce(need, op=dist.ReduceOp.MAX, group=self.group)
        if need[0] <= limit:
            yield from local.sources(list(self.parameters), keep=True).items()
            return
        walk = walk or local.walk(limit)
        able = torch.tensor([float(walk is not None)])
        dist.all_reduce(able, op=dist.ReduceOp.MIN, group=self.group)
        if able[0] > 0:
            yield from walk.passes()
            return
        for name in self.parameters:
            yield from local.sources([name]).items()

    def _broadcast(self, own: list[Source], source: int, shape: torch.Size) -> list[Source]:
        """The sources of process ``source``. The kinds are the same everywhere; the numbers of tokens are not."""
        theirs = []
        for like in own:
            parts = _tensors(like)
            sizes = torch.tensor([part.shape[0] for part in parts])
            self._send(sizes, source)
            moved = []
            for part, size in zip(parts, sizes.tolist(), strict=True):
                there = part.contiguous() if source == self.rank else part.new_empty(size, *part.shape[1:])
                self._send(there, source)
                moved.append(there)
            theirs.append(_made(like, moved))
        return theirs

    def _send(self, tensor: Tensor, source: int) -> None:
        if tensor.numel():
            root = source if self.group is None else dist.get_global_rank(self.group, source)
            dist.broadcast(tensor, root, group=self.group)


def _tensors(source: Source) -> list[Tensor]:
    if isinstance(source, RowsSource):
        return [source.rows]
    if isinstance(source, LinearSource):
        return [source.x, source.g, source.offsets]
    if isinstance(source, EmbeddingSource):
        return [source.ids, source.g, source.offsets]
    return [source.x, source.labels, source.lse, source.scale, source.offsets]


def _made(like: Source, parts: list[Tensor]) -> Source:
    if isinstance(like, LinearSource):
        return LinearSource(*parts, like.transposed)
    if isinstance(like, HeadSource):
        x, labels, lse, scale, offsets = parts
        return HeadSource(x, like.weight, labels, lse, scale, offsets)
    return type(like)(*parts)
