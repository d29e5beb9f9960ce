"""Multinomial logistic regression, small and exact enough for probes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["fit_logistic"]

ITERATIONS = 100


def fit_logistic(x: Tensor, y: Tensor, classes: int, *, penalty: float) -> Callable[[Tensor], Tensor]:
    """Fit on x (n, width) float64 and y (n,) int64, and return the function from rows to scores (n, classes).

    Minimises the mean cross entropy plus ``penalty`` / 2 times the squared weights (not the biases), on columns scaled
    to mean 0 and standard deviation 1, by L-BFGS from 0: convex, so the start does not matter.
    """
    mean, spread = x.mean(0), x.std(0, correction=0)
    spread = torch.where(spread > 1e-12, spread, torch.ones_like(spread))
    rows = (x - mean) / spread
    weight = torch.zeros(x.shape[1], classes, dtype=x.dtype, requires_grad=True)
    bias = torch.zeros(classes, dtype=x.dtype, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=ITERATIONS, history_size=10, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = functional.cross_entropy(rows @ weight + bias, y) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(closure)
    found, offset = weight.detach(), bias.detach()
    return lambda new: (new - mean) / spread @ found + offset
