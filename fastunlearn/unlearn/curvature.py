"""The Fisher that a step is shaped by.

Either of retained records, taken at the model's present weights at every step or every few of them, or one kept
from training time and down-dated once. Both give ``F^-1 J^T c`` and ``J F^-1 J^T`` for the gradients J of the forget
records.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from fastunlearn.data.encode import Encoded
from fastunlearn.operators.blocks import make_blocks
from fastunlearn.operators.ggn import GGN
from fastunlearn.operators.gram import gram_blocks
from fastunlearn.operators.losses import TokenLoss, negative_log_likelihood
from fastunlearn.operators.model_state import evaluation
from fastunlearn.operators.plan import CapturePlan, make_plan
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.operators.targets import make_batch
from fastunlearn.solve.kept_fisher import KeptFisher
from fastunlearn.solve.sample_space import SampleSpaceFisher

from .request import Request

__all__ = ["Curvature", "KeptCurvature", "RetainCurvature", "RetainedRecords"]

GGN_COST = 5 / 3  # gradients of a record that one product with its Gauss-Newton matrix costs

Vector = dict[str, Tensor]


class Curvature(Protocol):
    """F at the weights at which it was made."""

    def solve_forget(self, c: Tensor) -> Vector:
        """``F^-1 J^T c``; c (n,), one weight per forget record."""

    def forget_metric(self) -> Tensor:
        """``J F^-1 J^T`` (n, n) float64: how the forget losses answer to each other's pull."""

    def power(self, p: float, v: Vector, floor: float) -> Vector:
        """``F^p v``, eigenvalues below ``floor`` counted as ``floor``."""

    @property
    def records(self) -> int:
        """n, the number of forget records."""

    @property
    def forget_losses(self) -> Tensor:
        """(n,) float64: each record's pull."""


class _Sides:
    """Per-sample gradients of the request's records; the plan of capture is made once for all steps."""

    def __init__(self, request: Request):
        self._request = request
        self._plan: CapturePlan | None = None

    def prepare(self, samples: list[Encoded]) -> None:
        """Tries the rules at the present weights: an unbroken run does so at the original ones."""
        request = self._request
        if self._plan is None:
            self._plan = make_plan(request.model, request.parameters, samples, pad_token_id=request.pad_token_id)

    def gradients(self, samples: list[Encoded], loss: TokenLoss, label: str, **options) -> SampleGradients:
        request = self._request
        self.prepare(samples)
        return SampleGradients(
            request.model, samples, pad_token_id=request.pad_token_id, plan=self._plan, loss=loss, label=label,
            batch_size=request.batch_size, memory=request.memory_bytes, progress=request.progress,
            spend=request.spend, **options,
        )  # fmt: skip


class RetainedRecords:
    """Gradients of the retained records that a step takes its curvature from: ``size`` of them drawn anew at every
    step, or all (None); ``kind``: "empirical" or "sampled" labels. And of the forget records beside them."""

    def __init__(self, request: Request, size: int | None, kind: str):
        self._request, self._sides, self._size, self._kind = request, _Sides(request), size, kind

    def prepare(self) -> None:
        """What an unbroken run does at the original weights, before its first step."""
        self._sides.prepare(self._request.forget)

    def _draw(self, step: int) -> list[Encoded]:
        retain = self._request.retain
        if self._size is None or self._size >= len(retain):
            return retain
        generator = torch.Generator().manual_seed(self._request.seed * 1_000_003 + step)
        return [retain[i] for i in torch.randperm(len(retain), generator=generator)[: self._size].tolist()]

    def gradients(self, step: int, loss: TokenLoss) -> SampleGradients:
        """Of the retained records of ``step``, at the present weights."""
        seed = self._request.seed * 1_000_003 + step
        return self._sides.gradients(self._draw(step), loss, "retained records", kind=self._kind, seed=seed)

    def forget(self, pull: TokenLoss) -> SampleGradients:
        """Of ``pull`` on the forget records, at the present weights."""
        return self._sides.gradients(self._request.forget, pull, "forget records")


class RetainCurvature:
    """Makes the Fisher of retained records: ``fisher_samples`` of them drawn anew, or all (None), taken at every
    ``refresh``-th step. In between the last one serves, where ``memory`` holds its factors; where it does not,
    there is a new one at every step."""

    def __init__(
        self, request: Request, *, damping: float, blocks: str, kind: str, fisher_samples: int | None, refresh: int = 1
    ):
        self._records = RetainedRecords(request, fisher_samples, kind)
        self._damping, self._refresh = damping, refresh
        self._last: _RetainFisher | None = None
        self._made = 0  # the step at which the last Fisher was taken
        self._blocks = make_blocks(list(request.parameters), blocks)

    def prepare(self) -> None:
        """What an unbroken run does at the original weights, before its first step."""
        self._records.prepare()

    def is_fresh(self, step: int) -> bool:
        """Whether a new Fisher would be taken at ``step``, so that nothing but the weights is carried over to it."""
        last = self._last
        return last is None or step >= self._made + self._refresh or not last.retained.keeps_factors

    def at(self, step: int, pull: TokenLoss) -> _RetainFisher:
        """F and J at the present weights; J are the gradients of ``pull`` on the forget records."""
        forget = self._records.forget(pull)
        if not self.is_fresh(step):
            self._last = self._last.again(forget)
            return self._last
        self._last = None  # frees its factors before the next ones are taken
        retained = self._records.gradients(step, negative_log_likelihood)
        pairs = [(0, 0), (0, 1), (1, 1)]
        grams = gram_blocks([retained, forget], pairs, self._blocks)
        fisher = SampleSpaceFisher(retained, self._damping, blocks=self._blocks, gram=grams[0, 0])
        self._last, self._made = _RetainFisher(retained, forget, fisher, grams[0, 1], grams[1, 1]), step
        return self._last


class _RetainFisher:
    def __init__(
        self, retained: SampleGradients, forget: SampleGradients, fisher: SampleSpaceFisher, cross: Tensor, own: Tensor
    ):
        self.retained, self.forget, self.fisher = retained, forget, fisher
        self._cross, self._own = cross, own

    def again(self, forget: SampleGradients) -> _RetainFisher:
        """The same Fisher with gradients of the forget records at other weights."""
        grams = gram_blocks([self.retained, forget], [(0, 1), (1, 1)], self.fisher.blocks)
        return _RetainFisher(self.retained, forget, self.fisher, grams[0, 1], grams[1, 1])

    def solve_forget(self, c: Tensor) -> Vector:
        on_retained, on_forget = self.fisher.outside_weights(self._cross, c)
        found = self.retained.weighted_gradient(on_retained, self.fisher.blocks.of)
        other = self.forget.weighted_gradient(on_forget)
        return {name: found[name] + other[name] for name in found}

    def forget_metric(self) -> Tensor:
        inner = self.fisher.inverse(self._cross)
        return ((self._own - self._cross.mT @ inner) / self.fisher.damping).sum(0)

    def power(self, p: float, v: Vector, floor: float) -> Vector:
        return self.fisher.power(p, v, floor)

    @property
    def records(self) -> int:
        return len(self.forget)

    @property
    def forget_losses(self) -> Tensor:
        return self.forget.losses


class KeptCurvature:
    """Makes curvature from a kept Fisher, with the forget records' own part taken out; needs no retained data."""

    def __init__(self, request: Request, kept: KeptFisher):
        self._request, self._sides = request, _Sides(request)
        kept.check_model(request.parameters)
        if kept.kind == "sampled":  # its labels were drawn: what it holds of a record is, on the mean, Gauss-Newton
            self.kept = kept.remove_matrix(self._gauss_newton(kept.vectors), len(request.forget))
        else:
            own = self._sides.gradients(request.forget, negative_log_likelihood, "forget records")
            self.kept = kept.remove(own)

    def prepare(self) -> None:
        """Done already: the forget records' own part was taken out at the original weights."""

    def is_fresh(self, step: int) -> bool:
        return True

    def _gauss_newton(self, vectors: Vector) -> Tensor:
        """``U^T G U`` (r, r) float64: G the Gauss-Newton matrix of the forget records' summed loss, r vectors U."""
        request, found = self._request, []
        count, rank = len(request.forget), next(iter(vectors.values())).shape[0]
        batches = [
            make_batch(request.model, request.forget[i : i + request.batch_size], request.pad_token_id)
            for i in range(0, count, request.batch_size)
        ]
        with evaluation(request.model, list(request.parameters.values())):
            matrix = GGN(request.model, batches, params=list(request.parameters), reduction="sum")
            with request.progress.task("Gauss-Newton products of forget records", total=rank) as task:
                for low in range(0, rank, matrix.vectors_at_once):
                    some = {name: u[low : low + matrix.vectors_at_once] for name, u in vectors.items()}
                    product = matrix.matmat({name: u.to(matrix.dtype) for name, u in some.items()})
                    found.append(sum(_inner(part, vectors[name]) for name, part in product.items()))
                    task.advance(len(found[-1]))
        request.spend(math.ceil(GGN_COST * rank * count))
        inside = torch.cat(found)
        return (inside + inside.T) / 2

    def at(self, step: int, pull: TokenLoss) -> _KeptFisher:
        forget = self._sides.gradients(self._request.forget, pull, "forget records")
        return _KeptFisher(self.kept, forget)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Products of the rows of a (k, ...) with those of b (r, ...): (k, r) float64."""
    return a.flatten(1).double() @ b.flatten(1).double().T


class _KeptFisher:
    def __init__(self, kept: KeptFisher, forget: SampleGradients):
        self.kept, self.forget = kept, forget
        names = list(forget.parameters)
        self._own = gram_blocks([forget], [(0, 0)], make_blocks(names, "model"))[0, 0][0]

    def solve_forget(self, c: Tensor) -> Vector:
        return self.kept.solve(self.forget.weighted_gradient(c))

    def forget_metric(self) -> Tensor:
        return self.kept.metric(self._own, self.forget.dot(self.kept.vectors))

    def power(self, p: float, v: Vector, floor: float) -> Vector:
        return self.kept.power(p, v, floor)

    @property
    def records(self) -> int:
        return len(self.forget)

    @property
    def forget_losses(self) -> Tensor:
        return self.forget.losses
