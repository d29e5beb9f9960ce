"""Per-sample gradients of a model of FSDP2 (shards.py): SpreadGradients whose vectors are shards.

Gram: factors are captured on the shell, where a layer's weights are whole for its own passes alone, and go from process
to process as usual. ``G v`` and ``G^T c`` are a dual forward and a backward pass, block by block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .blocks import Blocks
from .plan import CapturePlan, make_plan
from .sample_gradients import SampleGradients
from .sharded import ShardedEngine, ShardedSpace
from .shards import Shards
from .sources import Source, tiles, weighted_sum
from .spread import SpreadGradients
from .targets import make_batch

__all__ = ["ShardedGradients", "in_step_samples", "sharded_plan"]


def sharded_plan(shards: Shards, names: Sequence[str], samples: list, pad_token_id: int) -> CapturePlan:
    """As make_plan, for the shell: rules are tried block by block, so that one block's gradients exist at a time. A
    rule that fails in one process is used in none."""
    plan, wanted = CapturePlan({name: shards.parameters[name] for name in names}), set(names)
    for group in shards.groups():
        some = {name: shards.parameters[name] for name in group if name in wanted}
        if some:
            with shards.pass_():
                plan.uses |= make_plan(shards.shell, some, samples, pad_token_id=pad_token_id).uses
    failed = shards.total(*(float(name not in plan.uses) for name in names))
    plan.generic = [name for name, count in zip(names, failed, strict=True) if count]
    plan.uses = {name: plan.uses[name] for name in names if name not in plan.generic}
    return plan


def in_step_samples(samples: list, shards) -> tuple[list, Tensor]:
    """The samples, with the first one repeated until all processes have as many, and their weights: 0 for repeats."""
    count = int(shards.most(len(samples)))
    weights = torch.zeros(count, dtype=torch.float64)
    weights[: len(samples)] = 1
    return samples + samples[:1] * (count - len(samples)), weights


class ShardedGradients(SpreadGradients):
    """``local``: of the shell and of samples from :func:`in_step_samples`, of which ``own`` are this process's. Vectors
    are shards (k, *local) of ``space``; otherwise as SpreadGradients. Every call is made by all processes."""

    def __init__(self, local: SampleGradients, own: int, space: ShardedSpace):
        self.shards, self.space = space.shards, space
        super().__init__(local, space.shards.group)
        self._padded, self._own = len(local), own
        counts = [0.0] * self.world
        counts[self.rank] = float(own)
        self._real = [int(n) for n in self.shards.total(*counts)]
        self._index = torch.cat([torch.arange(n) + r * self._padded for r, n in enumerate(self._real)])
        self._engine = ShardedEngine(self.shards, local.parameters, None)

    def __len__(self) -> int:
        return sum(self._real)

    @property
    def _place(self) -> slice:
        start = sum(self._real[: self.rank])
        return slice(start, start + self._own)

    def _mine_of(self, c: Tensor, axis: int) -> Tensor:
        """This process's part of weights of samples, with zeros for repeats."""
        own = c.movedim(axis, 0)[self._place]
        return torch.cat([own, own.new_zeros(self._padded - self._own, *own.shape[1:])]).movedim(0, axis)

    def gram(self, blocks: Blocks) -> Tensor:
        with self.shards.pass_():
            whole = super().gram(blocks)
        return whole[:, self._index[:, None], self._index]

    def pull(self, weights: Tensor, block_of: dict[str, int]) -> dict[str, Tensor]:
        """``G^T W`` for weights (blocks, m, k): shards."""
        own = self._mine_of(weights, 1).to(self.device)
        found = self.space.zeros(own.shape[2])
        if own.shape[0] == 1:
            for start, part in self._batches():
                rows = own[0, start : start + len(part)] * self._row_weights(start, len(part))[:, None]
                batch = make_batch(self.local.model, part, self.local.pad_token_id)
                self._engine.weighted_gradient(batch, rows.T[:, :, None].to(self.space.dtype), found)
            return found
        with self._sources() as passes:
            for name, sources in passes:
                c, shape = own[block_of[name]], self.parameters[name].shape
                whole = torch.stack([weighted_sum(sources, c[:, j], shape) for j in range(c.shape[1])])
                found[name].copy_(self.shards.reduced(name, whole))
        return found

    def weighted_gradient(self, c: Tensor, block_of: dict[str, int] | None = None) -> dict[str, Tensor]:
        """``G^T c``, c (m,) or (blocks, m): shards."""
        blocks = c[None] if c.dim() == 1 else c
        found = self.pull(blocks[..., None], block_of or dict.fromkeys(self.parameters, 0))
        return {name: one[0] for name, one in found.items()}

    def dot(self, vectors: dict[str, Tensor], block_of: dict[str, int] | None = None) -> Tensor:
        """``G V`` for shards (k, *local): (m, k) float64, or (blocks, m, k)."""
        columns = next(iter(vectors.values())).shape[0]
        blocks = 1 if block_of is None else 1 + max(block_of.values())
        own = torch.zeros(blocks, self._padded, columns, dtype=torch.float64, device=self.device)
        if blocks == 1:
            tangents = {name: vectors[name].to(p.dtype) for name, p in self.parameters.items()}
            for start, part in self._batches():
                batch = make_batch(self.local.model, part, self.local.pad_token_id)
                nll_t = self._engine.token_jvp(batch, tangents)[1]
                own[0, start : start + len(part)] = nll_t.sum(-1, dtype=torch.float64).T
        else:
            with self._sources() as passes:
                for name, sources in passes:
                    whole = self.shards.whole(name, vectors[name])
                    own[block_of[name]] += sum(source.dot(whole) for source in sources)
        found = own.new_zeros(blocks, len(self), columns)
        found[:, self._place] = own[:, : self._own]
        torch.distributed.all_reduce(found, group=self.group)
        return found[0] if block_of is None else found

    def weighted_squares(self, c: Tensor) -> dict[str, Tensor]:
        """``sum_i c_i g_i^2``: shards."""
        own, found = self._mine_of(c, 0), {}
        with self._sources() as passes:
            for name, sources in passes:
                shape = self.parameters[name].shape
                formed = tiles(sources, self._padded, shape, self.memory_bytes // 4)
                parts = [own.to(tile) @ tile.square() for _, tile in formed]
                found[name] = self.shards.reduced(name, torch.cat(parts).view(1, *shape))[0].clone()
        return {name: found[name] for name in self.parameters}

    def _row_weights(self, start: int, count: int) -> Tensor:
        return self.local.row_weights[start : start + count].to(self.device)

    def _batches(self) -> Iterator[tuple[int, list]]:
        size = self.local.batch_size
        for start in range(0, self._padded, size):
            yield start, self.local.samples[start : start + size]

    @contextmanager
    def _sources(self) -> Iterator[Iterator[tuple[str, list[Source]]]]:
        with self.shards.pass_():
            yield self._passes()

    def _passes(self) -> Iterator[tuple[str, list[Source]]]:
        """As in SpreadGradients, where every choice is that of all processes before a weight is gathered."""
        local, limit = self.local, self.memory_bytes // 2
        need = self.shards.most(sum(local.bytes_of(name) for name in self.parameters))
        if need <= limit:
            yield from local.sources(list(self.parameters), keep=True).items()
            return
        walk = local.walk(limit)
        if not self.shards.most(float(walk is None)):
            yield from walk.passes()
            return
        for name in self.parameters:
            yield from local.sources([name]).items()
