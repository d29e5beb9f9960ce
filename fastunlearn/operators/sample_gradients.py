"""The m x P matrix G of per-sample gradients, as an operator that never exists as a matrix.

    G G'^T      ``gram_blocks``          from the layers' inputs and output gradients (ghost or formed Gram)
    G^T c       ``weighted_gradient``    one backward pass of a weighted loss, or the same from kept factors
    G v         ``dot``                  one dual forward pass, or from kept factors

What is kept are the factors of one capture pass (capture.py), as many parameters at a time as ``memory`` holds:
with enough memory one pass serves all three, otherwise there is one pass per group of parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from fastunlearn.errors import InvalidInputError
from fastunlearn.progress import NO_PROGRESS, Progress
from fastunlearn.resources import parse_memory

from .budget import entering_bytes, pass_bytes
from .capture import capture
from .head import HeadSource
from .losses import TokenLoss, negative_log_likelihood
from .passes import backward_sum, forward_products, one_by_one
from .plan import CapturePlan, make_plan
from .samples import Sample
from .sources import RowsSource, Source, tiles, weighted_sum
from .state import PassState
from .targets import sample_labels
from .walk import LayerWalk

__all__ = ["KINDS", "SampleGradients"]

KINDS = ("empirical", "sampled")


class SampleGradients:
    """Per-sample gradients of ``samples`` at the model's present weights.

    ``loss``: token loss, summed over a sample's targets. ``kind``: "empirical" takes the samples' own labels,
    "sampled" labels drawn from the model (deterministic in ``seed``). ``parameters``: by name, default all
    that require a gradient. ``memory``: for kept factors, in bytes or as "1GB" (a batch's own activations come
    on top). ``row_weights`` (m,): each sample's loss is times its weight. ``captures``: the dtype that factors are
    kept in, default that of the model; products that need a pass of their own do not see it. ``plan``: one made before
    for the same model and parameters, to save the trial of the rules.

    The weights must not change while this object is in use, except after all factors are kept (``passes`` with
    enough memory). ``evaluations`` counts per-sample gradients spent; ``spend(n)`` is called with each n of them.
    Raises InvalidInputError for no samples, an unknown kind, or a gradient that is not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Sequence[Sample],
        *,
        pad_token_id: int,
        parameters: dict[str, nn.Parameter] | None = None,
        loss: TokenLoss = negative_log_likelihood,
        kind: str = "empirical",
        seed: int = 0,
        batch_size: int = 32,
        memory: int | str = "1GB",
        plan: CapturePlan | None = None,
        progress: Progress | None = None,
        label: str = "samples",
        spend: Callable[[int], None] | None = None,
        row_weights: Tensor | None = None,
        captures: torch.dtype | None = None,
    ):
        if not len(samples):
            raise InvalidInputError("samples is empty: give at least one sample to take gradients of")
        if kind not in KINDS:
            raise InvalidInputError(f"kind={kind!r} is unknown; use one of {', '.join(KINDS)}")
        self.model, self.loss, self.batch_size = model, loss, batch_size
        self.pad_token_id, self.label = pad_token_id, label
        self.memory_bytes = parse_memory(memory)
        self.progress = progress or NO_PROGRESS
        if plan is None:
            if parameters is None:
                parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
            plan = make_plan(model, parameters, samples, pad_token_id=pad_token_id)
        self.plan, self.parameters = plan, plan.parameters
        if kind == "sampled":
            samples = sample_labels(model, samples, pad_token_id=pad_token_id, batch_size=batch_size, seed=seed)
        self.samples = samples
        self.row_weights, self.captures = row_weights, captures
        self.state: Callable[[Tensor], PassState | None] = lambda _c: None  # of the pass that sums G^T c
        self.losses: Tensor | None = None  # (m,) float64, known after the first pass
        self.evaluations = 0
        self._spend_elsewhere = spend
        self._kept: dict[str, list[Source]] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def device(self) -> torch.device:
        return next(iter(self.parameters.values())).device

    def bytes_of(self, name: str) -> int:
        """About how many bytes the factors of one parameter take for all samples, from above."""
        parameter = self.parameters[name]
        size = parameter.element_size()
        if name not in self.plan.uses or parameter.dim() < 2:
            return len(self) * parameter.numel() * size
        head = self.model.get_output_embeddings() if hasattr(self.model, "get_output_embeddings") else None
        total, size = 0, size if self.captures is None else min(size, self.captures.itemsize)
        for use in self.plan.uses[name]:
            is_head = self.model.get_submodule(use.module) is head
            tokens = sum(int((s.labels != -100).sum()) if is_head else s.input_ids.numel() for s in self.samples)
            width = parameter.shape[1] + 1 if use.kind == "embedding" else sum(parameter.shape)
            total += tokens * width * size
        return total

    def groups(self, memory_bytes: int | None = None) -> list[list[str]]:
        """The parameters, cut into groups whose factors fit into the memory together.

        Raises InvalidInputError where one parameter alone does not fit.
        """
        limit = self._room if memory_bytes is None else memory_bytes
        groups: list[list[str]] = [[]]
        room = limit
        for name in self.parameters:
            need = self.bytes_of(name)
            self._check_room(name, need, limit, limit)
            if need > room and groups[-1]:
                groups.append([])
                room = limit
            groups[-1].append(name)
            room -= need
        return groups

    def _check_room(self, name: str, need: int, room: int, limit: int) -> None:
        if need > room:
            least = 8 / 7 * (need + limit - limit // 8 - room) if room < limit else need
            raise InvalidInputError(
                f"memory: the factors of {name!r} for {len(self)} {self.label} take {need / 1e9:.2g} GB and "
                f"{max(0, room) / 1e9:.2g} GB are left for them; raise memory (here by a factor of "
                f"{least / max(1, limit):.2f}), use fewer samples, or freeze that parameter"
            )

    def sources(self, names: Sequence[str], keep: bool = False) -> dict[str, list[Source]]:
        """The factors of ``names``: one pass over the samples, or those kept from an earlier pass."""
        if self._kept is not None:
            return {name: self._kept[name] for name in names}
        ruled = [name for name in names if name in self.plan.uses]
        found: dict[str, list[Source]] = {}
        if ruled:
            with self.progress.task(f"Gradients of {len(self)} {self.label}", total=len(self)) as task:
                captured = capture(
                    self.model, self.plan, ruled, self.samples, self.loss, pad_token_id=self.pad_token_id,
                    batch_size=self.batch_size, weights=self.row_weights, dtype=self.captures, on_batch=task.advance,
                )  # fmt: skip
            found, self.losses = captured.sources, captured.losses
            self._spend()
        generic = [name for name in names if name not in self.plan.uses]
        if generic:
            found |= one_by_one(self, generic)
            self._spend()
        self._check(found)
        found = {name: found[name] for name in names}
        if keep:
            self._kept = found
        return found

    def _spend(self) -> None:
        self.evaluations += len(self)
        if self._spend_elsewhere is not None:
            self._spend_elsewhere(len(self))

    def _check(self, found: dict[str, list[Source]]) -> None:
        for name, sources in found.items():
            for source in sources:
                tensor = source.rows if isinstance(source, RowsSource) else source.g if not isinstance(
                    source, HeadSource) else source.lse[:, None]
                if bool(torch.isfinite(tensor).all()):
                    continue
                row = int(torch.nonzero(~torch.isfinite(tensor).all(1))[0])
                if not isinstance(source, RowsSource):
                    row = int(torch.searchsorted(source.offsets, row, right=True)) - 1
                raise InvalidInputError(
                    f"model: the gradient of {name!r} is NaN or infinite at sample {row} (counted from 0) of the "
                    f"{self.label}; check that sample and the weights, or use a wider dtype"
                )

    def passes(self) -> Iterator[tuple[str, list[Source]]]:
        """Every parameter with its factors, group by group; the factors stay when all fit in one group."""
        if not self._fit:
            walk = self.walk(self.memory_bytes)
            if walk is not None:
                yield from walk.passes()
                return
        groups = self.groups()
        for names in groups:
            yield from self.sources(names, keep=len(groups) == 1).items()

    @property
    def _fit(self) -> bool:
        """Whether the factors of all parameters are kept, or fit into the memory together."""
        return self._kept is not None or sum(map(self.bytes_of, self.parameters)) <= self._room

    @property
    def _room(self) -> int:
        """Bytes for factors beside a batch's own, which may take half of the memory."""
        return max(self.memory_bytes // 2, self.memory_bytes - pass_bytes(self, False))

    @property
    def keeps_factors(self) -> bool:
        """Whether all factors are in memory: products then no longer depend on the model's present weights."""
        return self._kept is not None

    def walk_room(self, limit: int, beside: int = 0) -> int:
        """Bytes left for factors in a walk with at most about ``limit`` bytes, of which ``beside`` are others'."""
        return limit - limit // 8 - beside - entering_bytes(self) - pass_bytes(self, True)

    def walk(self, limit: int, beside: int = 0) -> LayerWalk | None:
        """A capture layer by layer with at most about ``limit`` bytes, where the model allows it (walk.py). An eighth
        is for tiles; ``beside``: bytes for what else is there. Raises InvalidInputError where that is too little."""
        room = self.walk_room(limit, beside)
        walk = LayerWalk.of(
            self.model, self.plan, self.samples, self.loss, pad_token_id=self.pad_token_id,
            batch_size=self.batch_size, weights=self.row_weights, limit=max(1, room), dtype=self.captures,
        )  # fmt: skip
        if walk is None:
            return None
        for name, p in self.parameters.items():
            logits = len(p) if p is walk.head.weight else 0  # the gradients of the output layer are not kept
            need = self.bytes_of(name) * (p.shape[-1] + 1) // (p.shape[-1] + max(logits, 1))
            self._check_room(name, need, room, limit)
        walk.check, walk.done = self._check, self._seen
        return walk

    def _seen(self, losses: Tensor) -> None:
        self.losses = losses
        self._spend()

    def forget_factors(self) -> None:
        """Frees the kept factors."""
        self._kept = None

    def weighted_gradient(self, c: Tensor, block_of: dict[str, int] | None = None) -> dict[str, Tensor]:
        """``G^T c`` by parameter, in its shape, at least float32.

        c (m,): one weight per sample; or (blocks, m) with ``block_of`` giving each parameter's row of it.
        From kept factors where there are any; else one backward pass of the weighted loss where all parameters
        share their weights; else from a capture pass per group.
        """
        c = c.to(self.device)
        if c.dim() == 2 and c.shape[0] == 1:
            c = c[0]
        if c.shape[-1] != len(self) or (c.dim() == 2 and block_of is None) or c.dim() > 2:
            raise InvalidInputError(f"c has shape {tuple(c.shape)}; it must be ({len(self)},), or blocks x {len(self)}")
        if c.dim() == 1 and self._kept is None:
            found = backward_sum(self, c)
            self._spend()
            return found
        found = {
            name: weighted_sum(sources, c if c.dim() == 1 else c[block_of[name]], self.parameters[name].shape)
            for name, sources in self.passes()
        }
        return self._in_order(found)

    def _in_order(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """By the parameters' order: passes may come in another."""
        return {name: found[name] for name in self.parameters}

    def pull(self, weights: Tensor, block_of: dict[str, int]) -> dict[str, Tensor]:
        """``G^T W`` by parameter as (k, *shape) for weights W (blocks, m, k): ``weighted_gradient`` for k columns."""
        if weights.shape[0] == 1 and (self._kept is None or weights.shape[2] == 1):
            columns = [self.weighted_gradient(weights[0, :, j]) for j in range(weights.shape[2])]
            return {name: torch.stack([one[name] for one in columns]) for name in self.parameters}
        found = {}
        for name, sources in self.passes():
            own, shape = weights[block_of[name]].to(self.device), self.parameters[name].shape
            found[name] = torch.stack([weighted_sum(sources, own[:, j], shape) for j in range(own.shape[1])])
        return self._in_order(found)

    def dot(self, vectors: dict[str, Tensor], block_of: dict[str, int] | None = None) -> Tensor:
        """``G V`` for k vectors given by parameter as (k, *shape): (m, k) float64, or (blocks, m, k), the
        parts of the sum by block, with ``block_of`` giving each parameter's block."""
        columns = next(iter(vectors.values())).shape[0]
        blocks = 1 if block_of is None else 1 + max(block_of.values())
        if blocks == 1 and not self._fit and self.loss is negative_log_likelihood:
            found = forward_products(self, vectors)
            self._spend()
            return found if block_of is None else found[None]
        result = torch.zeros(blocks, len(self), columns, dtype=torch.float64, device=self.device)
        for name, sources in self.passes():
            part = sum(source.dot(vectors[name]) for source in sources)
            result[0 if block_of is None else block_of[name]] += part
        return result[0] if block_of is None else result

    def weighted_squares(self, c: Tensor) -> dict[str, Tensor]:
        """``sum_i c_i g_i^2``, element by element, by parameter in its shape; from formed tiles, at least float32."""
        found = {}
        for name, sources in self.passes():
            shape = self.parameters[name].shape
            parts = [
                c.to(tile) @ tile.square() for _, tile in tiles(sources, len(self), shape, self.memory_bytes // 4)
            ]
            found[name] = torch.cat(parts).view(shape)
        return self._in_order(found)

    def combine(self, weights: Tensor) -> dict[str, Tensor]:
        """``W G`` by parameter as (k, *shape), for k rows of sample weights W (k, m): ``weighted_gradient`` k times
        at once, from formed tiles; at least float32."""
        combined = {}
        for name, sources in self.passes():
            shape = self.parameters[name].shape
            out = None
            for where, tile in tiles(sources, len(self), shape, self.memory_bytes // 4):
                if out is None:
                    out = tile.new_zeros(weights.shape[0], shape.numel())
                out[:, where] = weights.to(tile) @ tile
            combined[name] = out.view(-1, *shape)
        return self._in_order(combined)

    def dense(self) -> Tensor:
        """G itself, (m, P), parameters in their order: for small models and tests."""
        parts = {
            name: torch.cat([tile for _, tile in tiles(sources, len(self), self.parameters[name].shape, 2**62)], 1)
            for name, sources in self.passes()
        }
        return torch.cat(list(self._in_order(parts).values()), 1)
