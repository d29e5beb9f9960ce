"""Stored per-sample gradients in blocks of a fixed number of weights: WoodFisher's blocks, M-FAC's matrix.

    F_b = damping I + G_b^T G_b / m          G_b (m, B): the columns of one block

G is stored block by block, (blocks, m, B), in float32, bfloat16 or int8 with scales, in memory or in a file that is
mapped into memory, and read by a streaming kernel (ops/low_rank_apply). A solve reads G twice. With m below B each
block needs an m x m Cholesky factor, otherwise one of B x B; they are computed many at a time, kept where ``memory``
allows, else made anew for each solve.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.operators.sources import tiles
from fastunlearn.ops.low_rank_apply import combine, dot, quantise
from fastunlearn.ops.low_rank_apply.reference import wide
from fastunlearn.resources import parse_memory

from .mapped_file import MappedFile
from .sample_space import SampleSpace, check_damping, cholesky

__all__ = ["STORAGES", "ExplicitFisher", "StoredGradients"]

STORAGES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


class StoredGradients:
    """G (m, P), cut into blocks of ``width`` columns; the last one is padded with zeros.

    ``values`` (blocks, m, width) of one of STORAGES, ``scales`` (blocks, m) float32 for int8. ``path``: a file to keep
    the values in, mapped into memory. It is written beside that path as the gradients come, has its name from
    :meth:`publish` on, and is removed by :meth:`close`. ``instead_of``: the gradients whose file it takes the place of;
    any other file at that path is an InvalidInputError. ``device``: where they are kept, and vectors are to be (with a
    file: the CPU).
    """

    def __init__(
        self, samples: int, size: int, width: int, *, storage: str = "float32", path: str | None = None,
        device: torch.device | str = "cpu", instead_of: StoredGradients | None = None,
    ):  # fmt: skip
        if storage not in STORAGES:
            raise InvalidInputError(f"storage={storage!r} is unknown; use one of {', '.join(STORAGES)}")
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise InvalidInputError(f"blocks={width!r} must be an integer of at least 1: weights in a block")
        self.samples, self.size, self.width = samples, size, min(width, size)
        self.blocks = -(-size // self.width)
        shape, dtype = (self.blocks, samples, self.width), STORAGES[storage]
        self.file = None if path is None else MappedFile(path, None if instead_of is None else instead_of.file)
        if self.file is None:
            self.values = torch.zeros(shape, dtype=dtype, device=device)
        else:
            self.values = self.file.zeros(math.prod(shape), dtype).view(shape)
        self.device = self.values.device
        self.scales = torch.zeros(shape[:2], device=self.device) if dtype == torch.int8 else None

    @classmethod
    def of(cls, gradients: SampleGradients, width: int, *, publish: bool = True, **options) -> StoredGradients:
        """All gradients of ``gradients``, parameter by parameter in their order; on their device, but for a file.
        ``publish``: at the end, so that a failure leaves no file, and an older one as it was."""
        size = sum(p.numel() for p in gradients.parameters.values())
        device = "cpu" if options.get("path") is not None else gradients.device
        stored = cls(len(gradients), size, width, device=device, **options)
        try:
            stored._fill(gradients)
            if publish:
                stored.publish()
        except BaseException:
            stored.close()
            raise
        return stored

    def _fill(self, gradients: SampleGradients) -> None:
        starts, at = {}, 0
        for name, p in gradients.parameters.items():
            starts[name], at = at, at + p.numel()
        # int8 needs a block's largest number, so blocks that several tiles share are gathered in float32 first
        gathered: dict[int, tuple[Tensor, int]] = {}
        for name, sources in gradients.passes():
            shape = gradients.parameters[name].shape
            for where, tile in tiles(sources, len(gradients), shape, gradients.memory_bytes // 4):
                self._put(starts[name] + where.start, tile.to(self.device), gathered)

    def _put(self, start: int, tile: Tensor, gathered: dict[int, tuple[Tensor, int]]) -> None:
        """Writes columns ``start`` and on."""
        done = 0
        while done < tile.shape[1]:
            block, column = divmod(start + done, self.width)
            take = min(self.width - column, tile.shape[1] - done)
            part = tile[:, done : done + take]
            done += take
            if self.scales is None:
                self.values[block, :, column : column + take] = part
                continue
            whole, filled = gathered.pop(block, (torch.zeros(self.samples, self.width, device=self.device), 0))
            whole[:, column : column + take] = part
            filled += take
            if filled == min(self.width, self.size - block * self.width):
                values, scales = quantise(whole[None])
                self.values[block], self.scales[block] = values[0], scales[0]
            else:
                gathered[block] = (whole, filled)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.values.dtype == torch.float64 else torch.float32

    def cut(self, v: Tensor) -> Tensor:
        """Vectors (k, P) as (k, blocks, width), padded with zeros."""
        padded = v.new_zeros(v.shape[0], self.blocks * self.width, dtype=self.dtype)
        padded[:, : self.size] = v
        return padded.view(v.shape[0], self.blocks, self.width)

    def dot(self, v: Tensor) -> Tensor:
        """``G v`` by block, (k, blocks, m), for v (k, P)."""
        return dot(self.values, self.cut(v), self.scales)

    def combine(self, w: Tensor) -> Tensor:
        """``G^T w`` (k, P) for weights w (k, blocks, m)."""
        return combine(self.values, w.to(self.dtype), self.scales).flatten(1)[:, : self.size]

    def rows(self, first: int, last: int) -> Tensor:
        """Blocks ``first`` to ``last`` as numbers, (blocks, m, width)."""
        return wide(self.values[first:last], None if self.scales is None else self.scales[first:last])

    def publish(self) -> None:
        """Gives the file its name, in place of the one that this takes the place of. Raises InvalidInputError where
        another file has come to that path."""
        if self.file is not None:
            self.file.publish()

    def close(self) -> None:
        """Frees the values and removes their file."""
        self.values = self.values.new_zeros(0)
        if self.file is not None:
            self.file.remove()


class ExplicitFisher:
    """F_b above for all blocks. ``memory``: for the blocks' factors. Vectors are (P,) or (P, k).

    Raises InvalidInputError, and NotPositiveDefiniteError where rounding of what is stored has eaten the damping.
    """

    def __init__(self, stored: StoredGradients, damping: float, *, memory: int | str = "8GB"):
        self.stored, self.damping, self.samples = stored, check_damping(damping), stored.samples
        self.shape, self.dtype = torch.Size((stored.size, stored.size)), stored.dtype
        side = min(stored.samples, stored.width)
        self._wide = stored.samples < stored.width  # factors in sample space; else in the space of the weights
        each = side * side * 8
        self._step = max(1, int(min(parse_memory(memory) // 4, 2**28) // max(1, each)))
        self._kept: Tensor | None = None
        if stored.blocks * each <= parse_memory(memory):
            self._kept = torch.cat([self._factor(*part) for part in self._parts()])

    def _parts(self):
        for first in range(0, self.stored.blocks, self._step):
            yield first, min(self.stored.blocks, first + self._step)

    def _factor(self, first: int, last: int) -> Tensor:
        """Cholesky factors of ``m damping I + K``, or of F itself where the block is narrower, many at a time."""
        rows = self.stored.rows(first, last).double()
        matrix = rows @ rows.mT if self._wide else rows.mT @ rows / self.samples
        matrix.diagonal(dim1=1, dim2=2).add_(self.damping * (self.samples if self._wide else 1))
        return cholesky(matrix, "a block of the damped Fisher", f"raise damping (it is {self.damping:g})")

    def _factors(self, first: int, last: int) -> Tensor:
        return self._factor(first, last) if self._kept is None else self._kept[first:last]

    def _columns(self, v: Tensor) -> Tensor:
        if v.dim() not in (1, 2) or v.shape[0] != self.stored.size:
            size = self.stored.size
            raise InvalidInputError(f"v has shape {tuple(v.shape)}; it must be ({size},) or ({size}, k)")
        return (v[:, None] if v.dim() == 1 else v).T

    def solve(self, v: Tensor) -> Tensor:
        """``F^-1 v``."""
        columns = self._columns(v)
        if not self._wide:
            found = self._inverse(self.stored.cut(columns))
            flat = found.flatten(1)[:, : self.stored.size].to(self.dtype)
        else:
            inner = self._inverse(self.stored.dot(columns))
            flat = (columns.to(self.dtype) - self.stored.combine(inner)) / self.damping
        return flat[0] if v.dim() == 1 else flat.T

    def _inverse(self, w: Tensor) -> Tensor:
        """The inverse of the factored matrices times w (k, blocks, side), by block."""
        parts = [
            torch.cholesky_solve(w[:, a:b].permute(1, 2, 0).double(), self._factors(a, b)) for a, b in self._parts()
        ]
        return torch.cat(parts).permute(2, 0, 1)

    def power(self, p: float, v: Tensor, floor: float = 0.0) -> Tensor:
        """``F^p v``; eigenvalues below ``floor`` count as ``floor``. The eigenvectors of all blocks are made anew."""
        columns, parts = self._columns(v), []
        cut = self.stored.cut(columns)
        for a, b in self._parts():
            rows = self.stored.rows(a, b).double()
            some = cut[:, a:b].permute(1, 2, 0).double()  # (blocks, width, k)
            if self._wide:
                space = SampleSpace(rows @ rows.mT, self.damping, self.samples)
                base, weights = space.power(p, rows @ some, floor)
                parts.append(base * some + rows.mT @ weights)
            else:
                s, q = torch.linalg.eigh(rows.mT @ rows / self.samples)
                s = (s.clamp_min(0) + self.damping).clamp_min(floor) ** p
                parts.append(q @ (s[..., None] * (q.mT @ some)))
        flat = torch.cat(parts).permute(2, 0, 1).flatten(1)[:, : self.stored.size].to(self.dtype)
        return flat[0] if v.dim() == 1 else flat.T

    def solve_samples(self, c: Tensor) -> Tensor:
        """``F^-1 G^T c`` by push-through, (P,); c (m,)."""
        if c.shape != (self.samples,):
            raise InvalidInputError(f"c has shape {tuple(c.shape)}; it must be ({self.samples},): one per sample")
        each = c.double().expand(1, self.stored.blocks, -1)
        if not self._wide:
            return self.solve(self.stored.combine(each)[0])
        return self.samples * self.stored.combine(self._inverse(each))[0]

    def __matmul__(self, v: Tensor) -> Tensor:
        columns = self._columns(v)
        flat = self.damping * columns.to(self.dtype) + self.stored.combine(self.stored.dot(columns) / self.samples)
        return flat[0] if v.dim() == 1 else flat.T

    def diag(self) -> Tensor:
        """The diagonal of F, (P,)."""
        squares = torch.cat([self.stored.rows(a, b).square().sum(1) for a, b in self._parts()])
        return self.damping + squares.flatten()[: self.stored.size] / self.samples

    def logdet(self) -> float:
        """``log det F``."""
        total = 0.0
        for a, b in self._parts():
            total += 2 * self._factors(a, b).diagonal(dim1=1, dim2=2).log().sum().item()
        if not self._wide:  # the padding's columns are damping
            return total - (self.stored.blocks * self.stored.width - self.stored.size) * math.log(self.damping)
        rows = self.stored.blocks * self.samples
        return total - rows * math.log(self.samples * self.damping) + self.stored.size * math.log(self.damping)
