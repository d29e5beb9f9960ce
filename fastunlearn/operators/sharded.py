"""What an operator needs for a model of FSDP2: vectors as shards, and the dual pass over the shell (shards.py)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastunlearn.errors import InvalidInputError

from .batches import Part
from .shards import Shards
from .space import Form, Space, Vectors

__all__ = ["Again", "ShardedEngine", "ShardedSpace", "in_step"]


class ShardedSpace(Space):
    """The space of sharded parameters. Inside, k vectors are this process's shards by name, (k, *local).

    Vectors come as lists, tuples or dicts of DTensors laid out as the parameters, ``(*shape, k)`` for k of them, and
    answers go alike. A flat vector (P,) is whole on every process, and so is a flat answer.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], shards: Shards) -> None:
        super().__init__(parameters)
        self.shards = shards
        for name in parameters:
            if name not in shards.origin:
                raise InvalidInputError(f"params: {name!r} is not sharded and others are: shard it, or leave it out")
        self._origin = {name: shards.origin[name] for name in parameters}
        self._local = {name: p.to_local().shape for name, p in self._origin.items()}

    def zeros(self, k: int) -> Vectors:
        size = sum(shape.numel() for shape in self._local.values())
        return Vectors(torch.zeros(k, size, dtype=self.dtype, device=self.device), self._local)

    def read(self, v: Any, name: str = "v", *, widen: bool = True) -> tuple[dict[str, Tensor], Form]:
        if isinstance(v, Tensor):
            whole, form = self._read_flat(v, name, widen)
            return {n: self.shards.cut(n, part.contiguous()) for n, part in whole.items()}, form
        found, form = super().read(v, name, widen=widen)
        for n, part in found.items():
            self._check_layout(n, part, name)
        return {n: part.to_local() for n, part in found.items()}, form

    def _check_layout(self, n: str, part: Tensor, name: str) -> None:
        placements = getattr(part, "placements", None)
        if placements is None or list(placements) != self.shards._moved(n):
            raise InvalidInputError(
                f"{name}[{n!r}] is not laid out as that parameter: give a DTensor like the parameter's gradient "
                "(torch.zeros_like(p) makes one), or one flat tensor (P,)"
            )

    def write(self, vectors: Mapping[str, Tensor], form: Form) -> Any:
        from torch.distributed.tensor import DTensor

        if form.kind == "flat":
            whole = [self.shards.whole(n, vectors[n]).flatten(1) for n in self.shapes]
            flat = torch.cat(whole, 1)
            return flat[0] if form.single else flat.T
        found = {}
        for n, p in self._origin.items():
            local = vectors[n][0] if form.single else vectors[n].movedim(0, -1).contiguous()
            shape = p.shape if form.single else torch.Size((*p.shape, local.shape[-1]))
            stride = torch.empty(shape, device="meta").stride()
            found[n] = DTensor.from_local(
                local.contiguous(), self.shards.mesh, p.placements, run_check=False, shape=shape, stride=stride
            )
        return found if form.kind == "dict" else (list if form.kind == "list" else tuple)(found.values())


class ShardedEngine:
    """DualPass over the shell: the same calls, with shards for tangents and results. Results are summed over the
    processes; a loss, its derivatives and products of single samples are this process's own. Blocks are recomputed."""

    def __init__(self, shards: Shards, names: Iterable[str], loss: Any):
        from fastunlearn.dual import DualPass

        self.shards = shards
        self.parameters = {name: shards.parameters[name] for name in names}
        self._pass = DualPass(shards.shell, self.parameters, loss, "recompute", shards.reversing)

    def hessian(self, batch: Any, tangents: dict, out: dict, weight: float = 1.0, token_weights=None) -> Any:
        with self.shards.pass_(tangents, out) as (t, o):
            return self._pass.hessian(batch, t, o, weight, token_weights)

    def ggn(self, batch: Any, tangents: dict, out: dict, weight: float = 1.0, token_weights=None) -> Any:
        with self.shards.pass_(tangents, out) as (t, o):
            return self._pass.ggn(batch, t, o, weight, token_weights)

    def gradient(self, batch: Any, out: dict, weight: float = 1.0, token_weights=None) -> Any:
        with self.shards.pass_(None, out) as (_, o):
            return self._pass.gradient(batch, o, weight, token_weights)

    def jvp(self, batch: Any, tangents: dict, token_weights=None) -> Any:
        with self.shards.pass_(tangents, None) as (t, _):
            return self._pass.jvp(batch, t, token_weights)

    def token_jvp(self, batch: Any, tangents: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        with self.shards.pass_(tangents, None) as (t, _):
            return self._pass.token_jvp(batch, t)

    def weighted_gradient(self, batch: Any, token_weights: Tensor, out: dict[str, Tensor]) -> Any:
        with self.shards.pass_(None, out) as (_, o):
            return self._pass.weighted_gradient(batch, token_weights, o)


class Again:
    """Batches that are walked again and again, without a known sum: W is that of all processes."""

    def __init__(self, batches: Iterable[Mapping] | Mapping):
        self._batches = [batches] if isinstance(batches, Mapping) else batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)


def in_step(parts: Iterable[Part], shards: Shards) -> Iterator[Part]:
    """This process's parts, and after them its first one with weight 0 until all processes are done: a pass is made
    by all together. Raises InvalidInputError where a process has none with a weight."""
    first: Part | None = None
    mine = iter(parts)
    while True:
        part = next(mine, None)
        while part is not None and part.weight == 0:
            yield part  # nothing is computed of it
            part = next(mine, None)
        first = first or part
        if not shards.total(float(part is not None))[0]:
            return
        if shards.most(float(first is None)):
            raise InvalidInputError("batches: a process has no target token at all; give every process some")
        yield part if part is not None else first._replace(weight=0.0, samples=0, share=0.0, filler=True)
