"""Sharpness: how much the loss can rise within a ball around the weights (Foret et al. 2021, arXiv 2010.01412).

    max over |e| <= radius of  L(theta + e) - L(theta)  ~  g . e + e . H e / 2

The quadratic is maximised over a Krylov space of H from g and the largest eigenvector found from a random start, where
it is a small eigenproblem (More & Sorensen 1983; Gould et al. 1999 for the Krylov form). Then the *loss itself* is
evaluated there, at SAM's first-order point radius g / |g|, and at both ends of the eigenvector; the highest is given,
so it is a lower bound of the true maximum. ``adaptive``: e = |theta| * u with |u| <= radius (ASAM, Kwon et al. 2021,
arXiv 2102.11600), which does not change when a layer is scaled up and the next one down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastunlearn.audit.charts import Line, line_chart
from fastunlearn.dual.dual_pass import loss_of
from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.first_order import gradient
from fastunlearn.operators.hessian import Hessian
from fastunlearn.operators.model_state import widened
from fastunlearn.operators.parameters import Choice

from ._lanczos import count, random_start, recurrence
from .spectra import Extreme

__all__ = ["Sharpness", "sharpness"]


@dataclass(frozen=True)
class Sharpness:
    """``value``: the largest rise of the loss that was found within the ball, in nats. ``loss``: at the weights.
    ``rises``: by candidate ("quadratic", "gradient", "eigenvector +", "eigenvector -"). ``predicted``: the maximum
    of the quadratic. ``eigenvalue``: the largest of H (of |theta| H |theta| if adaptive), with its error.
    ``direction`` (P,): the e of ``value``. ``profile``: (share of e, loss) along it."""

    value: float
    loss: float
    rises: dict[str, float]
    predicted: float
    eigenvalue: Extreme
    radius: float
    direction: Tensor
    profile: list[tuple[float, float]]

    def svg(self) -> str:
        """The loss along the direction found, a whole SVG file. Raises InvalidInputError without a profile."""
        if not self.profile:
            raise InvalidInputError("profile: none was computed; call sharpness(..., profile=9)")
        x, y = zip(*self.profile, strict=True)
        return line_chart(
            [Line("loss", [self.radius * one for one in x], list(y))], title="Loss along the sharpest direction",
            x_axis="distance", y_axis="loss, nats",
        )  # fmt: skip


def maximum_in_ball(g: Tensor, h: Tensor, radius: float) -> Tensor:
    """The y with ``|y| <= radius`` that maximises ``g . y + y . h y / 2``; g (n,), h (n, n) symmetric, float64."""
    values, vectors = torch.linalg.eigh(h)
    c = vectors.T @ g
    if float(values[-1]) < 0:  # a hill: its top may lie inside
        y = -c / values
        if float(y.norm()) <= radius:
            return vectors @ y
    # y = (nu - h)^-1 g with nu >= the largest eigenvalue, such that |y| = radius; |y| falls as nu grows
    low = max(float(values[-1]), 0.0)
    high = low + float(g.norm()) / radius + 1e-300
    gaps = low - values
    near = gaps <= 1e-12 * max(float(values.abs().max()), 1e-300)
    inside = torch.where(near, 0.0, c / torch.where(near, 1.0, gaps))
    if bool(near.any()) and float(c[near].norm()) <= 1e-12 * float(c.norm()) and float(inside.norm()) < radius:
        # the hard case: g has no part along the top eigenvector, which fills up what is left
        inside[near.nonzero()[-1, 0]] = (radius**2 - float(inside.norm()) ** 2) ** 0.5
        return vectors @ inside
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((c / (middle - values)).norm()) > radius else (low, middle)
    return vectors @ (c / (high - values))


class _Adapted:
    """``D A D`` with a diagonal D (P,)."""

    def __init__(self, a: Hessian, scale: Tensor):
        self.a, self.scale, self.shape, self.dtype, self.device = a, scale[:, None], a.shape, a.dtype, a.device

    def __matmul__(self, v: Tensor) -> Tensor:
        return self.scale * (self.a @ (self.scale * v))


def _evaluator(hessian: Hessian) -> Callable[[Tensor | None], float]:
    """``loss(e)``: the loss at the weights plus a flat vector, which come back to the bit. A weight of half precision
    would swallow most of a short vector: such models are evaluated in float32."""
    walk, space = hessian.walk, hessian.space
    half = any(p.dtype.itemsize < torch.float32.itemsize for p in walk.parameters.values())

    @torch.no_grad()
    def loss(e: Tensor | None) -> float:
        with widened(walk.model, torch.float32) if half else nullcontext():
            return moved(e)

    def moved(e: Tensor | None) -> float:
        kept = {} if e is None else {name: p.detach().clone() for name, p in walk.parameters.items()}
        try:
            if e is not None:
                for name, part in space.read(e)[0].items():
                    walk.parameters[name].add_(part[0].to(walk.parameters[name]))
            total = torch.zeros((), dtype=torch.float64)

            def step(part: Any) -> None:
                batch = {n: _single(v) for n, v in part.batch.items()} if half else part.batch
                value = loss_of(walk.model, batch) if walk.loss is None else walk.loss(walk.model, batch)
                total.add_(value.double().cpu(), alpha=part.factor)

            rest = walk.average(step)
            return float(total) / rest
        finally:
            for name, before in kept.items():
                walk.parameters[name].copy_(before)

    return loss


def _single(value: Any) -> Any:
    """A tensor of half precision in float32; anything else as it is."""
    narrow = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if narrow else value


def sharpness(
    model: nn.Module,
    batches: Iterable[Mapping] | Mapping,
    *,
    radius: float = 0.05,
    adaptive: bool = False,
    loss: Callable[[nn.Module, Mapping], Tensor] | None = None,
    params: Choice = None,
    steps: int = 20,
    profile: int = 0,
    seed: int = 0,
) -> Sharpness:
    """The sharpness of ``model`` at its weights. ``radius``: Euclidean, above 0 (of u if ``adaptive``).

    ``steps`` passes with two vectors each, and ``steps`` + 1 products more; keeps 3 x steps vectors. ``loss``,
    ``params``: as for ``fu.Hessian``.
    ``profile``: so many losses along the direction found, from -1 to 1 times it. The weights are moved for the
    evaluations, and put back; where they are of half precision, they and the buffers are in float32 for that time.
    Raises InvalidInputError.
    """
    if not 0 < radius < float("inf"):
        raise InvalidInputError(f"radius={radius!r} must be a finite number above 0")
    count(steps, "steps")
    hessian = Hessian(model, batches, loss, params)
    g = gradient(model, batches, loss, params)
    assert isinstance(g, Tensor)
    scale = torch.ones_like(g)
    if adaptive:
        scale = torch.cat([p.detach().flatten().to(g) for p in hessian.walk.parameters.values()]).abs()
    matrix: Any = _Adapted(hessian, scale) if adaptive else hessian
    slope = scale * g
    random = random_start(matrix, 1, seed)[:, 0]
    first = slope if float(slope.norm()) > 0 else random_start(matrix, 1, seed + 1)[:, 0]
    found = recurrence(matrix, torch.stack([first, random], 1), steps)
    assert found.basis is not None
    # Where a space was used up the recurrence went on with zeros, whose eigenvalue 0 is none of the matrix's.
    own, other = (one[:, one.norm(dim=0) > 0.5] for one in (found.basis[..., 0].T, found.basis[..., 1].T))  # (P, steps)
    last = other.shape[1]
    nodes, vectors = torch.linalg.eigh(found.small()[1, :last, :last])
    top = other @ vectors[:, -1].to(other)
    top = top / top.norm()
    basis = torch.linalg.qr(torch.cat([own, top[:, None]], 1))[0]
    small = (basis.T @ (matrix @ basis)).double()
    y = maximum_in_ball((basis.T @ slope).double(), (small + small.T) / 2, radius)
    predicted = float((basis.T @ slope).double() @ y + y @ small @ y / 2)
    candidates = {"quadratic": basis @ y.to(basis), "eigenvector +": radius * top, "eigenvector -": -radius * top}
    if float(slope.norm()) > 0:
        candidates["gradient"] = radius * slope / slope.norm()
    evaluate = _evaluator(hessian)
    here = evaluate(None)
    rises = {name: evaluate(scale * u) - here for name, u in candidates.items()}
    best = max(rises, key=lambda name: rises[name])
    e = scale * candidates[best]
    shares = torch.linspace(-1, 1, profile, dtype=torch.float64).tolist() if profile else []
    error = float(vectors[-1, -1].abs() * found.beta[last - 1, 1])
    return Sharpness(rises[best], here, rises, predicted, Extreme(float(nodes[-1]), error), radius, e,
                     [(t, evaluate(t * e)) for t in shares])  # fmt: skip
