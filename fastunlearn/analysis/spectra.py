"""The spectrum of a curvature matrix from products with it: stochastic Lanczos quadrature.

    density(x) = (1/P) sum_i delta(x - lambda_i)  ~  mean over random unit v of  sum_j w_j delta(x - theta_j)

theta_j are the eigenvalues of the tridiagonal matrix of a Lanczos recurrence from v, and w_j the squares of the first
entries of its eigenvectors: a Gauss quadrature, exact for polynomials of degree below twice the number of steps
(Golub & Welsch 1969; Ghorbani, Krishnan & Xiao 2019, arXiv 1901.10159, for networks). Its ends converge first: the
largest and smallest theta come with bounds on their distance to an eigenvalue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastunlearn.audit.charts import Line, line_chart
from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.hessian import Hessian
from fastunlearn.operators.parameters import Choice
from fastunlearn.solve.solution import Matrix

from ._lanczos import count, random_start, recurrence
from .traces import Trace

__all__ = ["Extreme", "Spectrum", "spectrum"]


class Extreme(NamedTuple):
    """An eigenvalue lies within ``error`` of ``value``."""

    value: float
    error: float


@dataclass(frozen=True)
class Spectrum:
    """``nodes``, ``weights`` and ``errors`` (probes, steps) float64: theta, w (each row sums to 1), and the distance
    within which an eigenvalue lies. ``size``: P. ``products``: vectors multiplied."""

    nodes: Tensor
    weights: Tensor
    errors: Tensor
    size: int
    products: int

    @property
    def largest(self) -> Extreme:
        """The right end. Rounding comes on top of its error."""
        at = int(self.nodes.where(self.weights > 0, -torch.inf).argmax())
        return Extreme(float(self.nodes.flatten()[at]), float(self.errors.flatten()[at]))

    @property
    def smallest(self) -> Extreme:
        """The left end."""
        at = int(self.nodes.where(self.weights > 0, torch.inf).argmin())
        return Extreme(float(self.nodes.flatten()[at]), float(self.errors.flatten()[at]))

    def mean(self, function: Callable[[Tensor], Tensor]) -> Trace:
        """``tr f(A)`` with its standard error over the probes; f takes eigenvalues, element by element. With the
        identity it is the trace, with ``torch.log`` of a positive definite A its log-determinant."""
        live = self.weights > 0
        each = self.size * (self.weights * torch.where(live, function(self.nodes), 0.0)).sum(1)
        error = float(each.std()) / len(each) ** 0.5 if len(each) > 1 else float("inf")
        return Trace(float(each.mean()), error, self.products)

    def share_above(self, x: float) -> float:
        """About which share of all eigenvalues is larger than x."""
        return float(self.weights[self.nodes > x].sum() / len(self.nodes))

    def density(self, points: Tensor, width: float | None = None) -> Tensor:
        """The density at ``points``, smoothed by a normal of standard deviation ``width`` (default: a hundredth of
        the range); its integral is 1."""
        width = width or 0.01 * max(self.largest.value - self.smallest.value, 1e-30)
        z = (points.double()[..., None, None] - self.nodes) / width
        kernel = torch.exp(-0.5 * z.square()) / (width * (2 * torch.pi) ** 0.5)
        return (kernel * self.weights).sum((-1, -2)) / len(self.nodes)

    def svg(self, points: int = 400) -> str:
        """The density on a logarithmic scale, a whole SVG file."""
        low, high = self.smallest.value, self.largest.value
        margin = 0.05 * max(high - low, 1e-30)
        x = torch.linspace(low - margin, high + margin, points, dtype=torch.float64)
        y = self.density(x).clamp_min(1e-12)
        label = f"{len(self.nodes)} probes, {self.nodes.shape[1]} steps"
        return line_chart(
            [Line(label, x.tolist(), y.tolist())], title="Density of eigenvalues", x_axis="eigenvalue",
            y_axis="density", log_y=True,
        )  # fmt: skip


def spectrum(
    matrix: Matrix | nn.Module,
    batches: Iterable[Mapping] | Mapping | None = None,
    *,
    loss: Callable[[nn.Module, Mapping], Tensor] | None = None,
    params: Choice = None,
    probes: int = 4,
    steps: int = 64,
    seed: int = 0,
    reorthogonalise: bool = True,
) -> Spectrum:
    """The spectrum of a symmetric ``matrix``: any operator (``fu.Hessian``, ``fu.GGN``, sums of them, all that has
    shape, dtype and ``@``), or a model with its ``batches``, for its Hessian (``loss``, ``params``: as for that).

    ``probes`` random vectors are multiplied at once, ``steps`` times. ``reorthogonalise``: keeps all vectors, P x
    probes x steps numbers; without it converged eigenvalues come several times, which the density forgives.
    Raises InvalidInputError.
    """
    count(probes, "probes")
    count(steps, "steps")
    if isinstance(matrix, nn.Module):
        if batches is None:
            raise InvalidInputError("batches are missing: a model's Hessian is that of its loss over batches")
        return spectrum(
            Hessian(matrix, batches, loss, params), probes=probes, steps=steps, seed=seed,
            reorthogonalise=reorthogonalise,
        )  # fmt: skip
    if batches is not None or loss is not None or params is not None:
        raise InvalidInputError("batches, loss and params go with a model; an operator has its own")
    found = recurrence(matrix, random_start(matrix, probes, seed), steps, keep=reorthogonalise)
    nodes, vectors = torch.linalg.eigh(found.small())
    weights, errors = vectors[:, 0].square(), vectors[:, -1].abs() * found.beta[-1][:, None]
    weights = torch.where(weights < 1e-300, 0.0, weights)
    return Spectrum(nodes, weights, errors, int(matrix.shape[0]), found.products)
