"""What the curvature operators share: the model, the batches and the walk over them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops import _memory as fresh
from fastunlearn.ops._recording import recording

from .base import LinearOperator
from .batches import IGNORED, Batches, Part
from .parameters import Choice, choose_parameters
from .sharded import Again, ShardedEngine, ShardedSpace, in_step
from .shards import Shards
from .space import Space

if TYPE_CHECKING:
    from fastunlearn.dual import DualPass

__all__ = ["CurvatureOperator", "Walk", "check_evaluation"]


def check_evaluation(model: nn.Module) -> None:
    """Raises InvalidInputError where the model's loss is a random number, or not a sum over samples: a module in
    train mode that drops out, or that normalises by the statistics of its batch."""
    for name, module in model.named_modules():
        if not module.training:
            continue
        where = f"model is in train mode, and its module {name or 'itself'!r}"
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise InvalidInputError(f"{where} is a batch norm: call model.eval() first")
        rates = [getattr(module, a, 0.0) for a in ("p", "dropout", "attention_dropout", "dropout_p", "hidden_dropout")]
        if isinstance(module, nn.modules.dropout._DropoutNd):
            rates = [module.p]
        elif not isinstance(module, nn.Dropout):
            rates = rates[1:]
        if any(isinstance(rate, float) and rate > 0 for rate in rates):
            raise InvalidInputError(f"{where} has dropout: call model.eval() first")


class Walk:
    """A model, its chosen parameters, batches and loss; each walk over the batches accumulates something."""

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Mapping] | Mapping,
        loss: Callable[[nn.Module, Mapping], Tensor] | None,
        params: Choice,
        reduction: str,
        batch_weight: Callable[[Mapping], float] | None,
        allow_unused: bool,
        memory: str | int = "auto",
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InvalidInputError(f"model is a {type(model).__name__}; it must be a torch.nn.Module")
        self.model, self.loss, self.allow_unused, self.memory = model, loss, allow_unused, memory
        self.shards = Shards.of(model)
        self.parameters = choose_parameters(model, params)
        self.space = Space(self.parameters) if self.shards is None else ShardedSpace(self.parameters, self.shards)
        if self.shards is not None:
            batches = Again(batches)
        self.batches = Batches(batches, self.space.device, loss=loss, reduction=reduction, weight=batch_weight)
        self._engine: DualPass | ShardedEngine | None = None
        self._shifts = False  # whether the model's loss was seen to count targets as the batches do
        check_evaluation(model)

    @property
    def engine(self) -> Any:
        """The dual pass over the model (of one process, or of shards), made when it is first needed."""
        if self._engine is None:
            if self.shards is not None:
                self._engine = ShardedEngine(self.shards, self.parameters, self.loss)
            else:
                self._engine = make_engine(self.model, self.parameters, self.loss, self.memory)
        return self._engine

    def tangents(self, vectors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Vectors in the dtypes of their parameters, as the engine takes them."""
        return {name: tensor.to(self.space.dtypes[name]) for name, tensor in vectors.items()}

    def average(self, step: Callable[[Part], Any]) -> float:
        """Calls ``step`` for every batch that has a weight, and returns what the sum is still to be divided by: W, or 1
        where ``part.factor`` has it already.

        ``step`` returns the engine's result. Raises InvalidInputError naming a parameter that took no part in any."""
        check_evaluation(self.model)
        weights, samples, count = 0.0, 0, 0
        unused: frozenset[str] = frozenset(self.parameters)
        parts = self.batches if self.shards is None else in_step(self.batches, self.shards)
        for part in parts:
            samples += part.samples
            if part.weight == 0 and not part.filler:
                continue
            weights, count = weights + part.weight, count + 1
            result = step(part)
            unused &= getattr(result, "unused", frozenset())
            if self.loss is None and (count > 1 or self.batches.reduction != "mean"):
                self._check_targets(part, getattr(result, "labels", None))
        if self.shards is not None:
            weights, everywhere = self.shards.total(weights, samples)
            samples = int(everywhere)
        rest = self.batches.rest(weights, samples)
        if unused and not self.allow_unused:
            name = next(name for name in self.parameters if name in unused)
            raise InvalidInputError(
                f"params: {name!r} takes no part in the loss of any batch ({len(unused)} such of "
                f"{len(self.parameters)}): leave it out of params=, or set allow_unused=True for zeros"
            )
        return rest


    def _check_targets(self, part: Part, seen: Tensor | None) -> None:
        """Raises InvalidInputError where the model's own loss counts other targets than :class:`Batches` does, so that
        batches would weigh wrongly. Once: it is the model that shifts labels or not."""
        if self._shifts or seen is None or part.token_weights is not None or part.filler or recording(seen):
            return
        found = int((seen != IGNORED).sum())
        if found != part.weight:
            raise InvalidInputError(
                f"batches[{part.place}]: the model's own loss has {found} target tokens, and its labels hold "
                f"{part.weight:.0f} behind the first place of each row (the model does not shift them?), so batches "
                f"cannot be weighed by their tokens: give loss=lambda model, batch: model(**batch).loss, and "
                f"batch_weight= that counts the targets of a batch as the model does"
            )
        self._shifts = True


def make_engine(model: nn.Module, parameters: dict[str, nn.Parameter], loss: Any, memory: str | int) -> DualPass:
    """The dual pass that does the work. In one place, so that tests can put a slow oracle there."""
    from fastunlearn.dual import DualPass

    return DualPass(model, parameters, loss, memory)


class CurvatureOperator(LinearOperator):
    """A curvature matrix of ``model`` over ``batches``, at the weights that the model has when it is multiplied.

    ``model``: a causal language model as a module, in evaluation mode (or without dropout).
    ``batches``: see :class:`~fastunlearn.operators.batches.Batches`; walked once per product.
    ``loss``: None for the mean over the target tokens of all batches, or ``loss(model, batch)``, a scalar.
    ``params``: None for all with ``requires_grad``; names, patterns or parameters.
    ``reduction``: "mean" (over target tokens), "samples" (the sum over them per sequence), "sum", or "sample-mean" (the
    mean over sequences of each one's mean over its target tokens). ``batch_weight(batch)``: how much the user's loss of
    a batch stands for in the mean (default: its number of samples).
    ``vectors_at_once``: a matrix of more columns is done in several passes. ``allow_unused``: a parameter that takes
    no part in the loss gives zeros instead of an error. ``memory``: bytes that activations may take; "store" for any
    number, "recompute" for those of one block, "auto" for as much as the answer takes, at least 768 MiB, on a GPU at
    least two thirds of what is free; blocks that do not fit are computed once more.

    Sums are in float32, in float64 for float64 models, whatever the dtype of the weights; vectors are rounded to that
    of the weights. On the CPU the same call gives the same bits whatever the number of threads, as far as PyTorch's own
    operations do; on a GPU set ``torch.use_deterministic_algorithms(True)``. Raises InvalidInputError.
    """

    ANY_DTYPE = True

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Mapping] | Mapping,
        loss: Callable[[nn.Module, Mapping], Tensor] | None = None,
        params: Choice = None,
        *,
        reduction: str = "mean",
        batch_weight: Callable[[Mapping], float] | None = None,
        vectors_at_once: int = 16,
        allow_unused: bool = False,
        memory: str | int = "auto",
    ) -> None:
        self.walk = Walk(model, batches, loss, params, reduction, batch_weight, allow_unused, memory)
        if vectors_at_once < 1:
            raise InvalidInputError(f"vectors_at_once={vectors_at_once}: it must be at least 1")
        self.vectors_at_once = vectors_at_once
        super().__init__(self.walk.space)

    def accumulate(self, part: Part, tangents: dict[str, Tensor], out: dict[str, Tensor]) -> Any:
        """Adds ``part.factor`` times the batch's matrix times the k tangents to ``out``; the engine's result."""
        raise NotImplementedError

    @torch.no_grad()
    def matmat(self, vectors: dict[str, Tensor]) -> dict[str, Tensor]:
        k = next(iter(vectors.values())).shape[0]
        out = self.space.zeros(k)
        with fresh.reuse():
            for low in range(0, k, self.vectors_at_once):
                some = slice(low, low + self.vectors_at_once)
                tangents = self.walk.tangents({name: tensor[some] for name, tensor in vectors.items()})
                sums = out.rows(some)
                rest = self.walk.average(functools.partial(self.accumulate, tangents=tangents, out=sums))
                if rest != 1.0:
                    sums.flat.div_(rest)
        return out
