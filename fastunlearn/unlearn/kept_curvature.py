"""A Fisher that is kept from training time, with the forget records' own part taken out: what a step is shaped by where
there are no retained records."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastunlearn.operators.blocks import make_blocks
from fastunlearn.operators.ggn import GGN
from fastunlearn.operators.gram import gram_blocks
from fastunlearn.operators.losses import TokenLoss, negative_log_likelihood
from fastunlearn.operators.model_state import evaluation
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.operators.targets import make_batch
from fastunlearn.solve.kept_fisher import KeptFisher

from .curvature import Sides, Vector
from .leverage import at_most
from .request import Request

__all__ = ["KeptCurvature"]

GGN_COST = 5 / 3  # gradients of a record that one product with its Gauss-Newton matrix costs


class KeptCurvature:
    """Makes curvature from a kept Fisher, with the forget records' own part taken out; needs no retained data."""

    def __init__(self, request: Request, kept: KeptFisher):
        self._request, self._sides = request, Sides(request)
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

    def leverage(self) -> dict[str, float]:
        return at_most(self._own, self.kept.damping, self.kept.samples)

    def power(self, p: float, v: Vector, floor: float) -> Vector:
        return self.kept.power(p, v, floor)

    @property
    def records(self) -> int:
        return len(self.forget)

    @property
    def forget_losses(self) -> Tensor:
        return self.forget.losses
