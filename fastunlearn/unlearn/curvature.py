"""The Fisher that a step is shaped by.

Either of retained records, taken at the model's present weights at every step or every few of them (here), or one kept
from training time and down-dated once (kept_curvature.py). Both give ``F^-1 J^T c`` and ``J F^-1 J^T`` for the
gradients J of the forget records.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from fastunlearn.data.encode import Encoded
from fastunlearn.operators.blocks import Blocks, finest_that_fits, make_blocks
from fastunlearn.operators.gram import gram_blocks
from fastunlearn.operators.losses import TokenLoss, negative_log_likelihood
from fastunlearn.operators.plan import CapturePlan, make_plan
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.solve.sample_space import SampleSpaceFisher

from .leverage import leverage
from .request import Request

__all__ = ["Curvature", "RetainCurvature", "RetainedRecords", "Sides", "Vector"]

Vector = dict[str, Tensor]


class Curvature(Protocol):
    """F at the weights at which it was made."""

    def solve_forget(self, c: Tensor) -> Vector:
        """``F^-1 J^T c``; c (n,), one weight per forget record."""

    def forget_metric(self) -> Tensor:
        """``J F^-1 J^T`` (n, n) float64: how the forget losses answer to each other's pull."""

    def power(self, p: float, v: Vector, floor: float) -> Vector:
        """``F^p v``, eigenvalues below ``floor`` counted as ``floor``."""

    def leverage(self) -> dict[str, float]:
        """``g^T (m F)^-1 g`` of the forget records, for the step log (leverage.py). At 1, a record has as much
        curvature along its own gradient g as the m retained ones together."""

    @property
    def records(self) -> int:
        """n, the number of forget records."""

    @property
    def forget_losses(self) -> Tensor:
        """(n,) float64: each record's pull."""


class Sides:
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
        self._request, self._sides, self._size, self._kind = request, Sides(request), size, kind

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
        return self.of(self._request.forget, pull)

    def of(self, forget: list[Encoded], pull: TokenLoss) -> SampleGradients:
        """Of ``pull`` on some of the forget records, at the present weights."""
        return self._sides.gradients(forget, pull, "forget records")


#: Of ``memory``, for the Grams of all blocks with blocks="auto": the rest is for factors.
GRAMS_SHARE = 1 / 16


def _blocks_of(request: Request, how: str, size: int | None) -> Blocks:
    """Blocks of that kind; "auto": one for each tensor where the float64 Grams of all records fit into their share of
    the memory, else for each layer, else one, with a note."""
    names = list(request.parameters)
    if how != "auto":
        return make_blocks(names, how)
    m, n = len(request.retain), len(request.forget)
    records = n + (m if size is None else min(size, m))
    found = finest_that_fits(names, 8 * records * records, int(GRAMS_SHARE * request.memory_bytes))
    if found.kind != "tensor":
        need = 8 * records * records * len(names) / GRAMS_SHARE
        request.notes.append(
            f'blocks="auto" took blocks by {found.kind}: those by tensor, which harm a little less, ask for a memory '
            f"of {need / 1e9:.2g} GB."
        )
    return found


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
        self._blocks = _blocks_of(request, blocks, fisher_samples)

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

    def leverage(self) -> dict[str, float]:
        blocks, m, n = self._cross.shape
        return leverage(self.forget_metric, self._own.sum(0), self.fisher.damping, m, cost=blocks * m * m * n)

    def power(self, p: float, v: Vector, floor: float) -> Vector:
        return self.fisher.power(p, v, floor)

    @property
    def records(self) -> int:
        return len(self.forget)

    @property
    def forget_losses(self) -> Tensor:
        return self.forget.losses
