"""Conjugate gradients for one or several right-hand sides at once, for positive definite matrices.

    S = P^T A P,  alpha = S^-1 P^T R,  X += P alpha,  R -= A P alpha,  beta = -S^-1 (A P)^T Z,  P = orth(Z + P beta)

with Z = M R for a preconditioner M. For one column this is conjugate gradients; for k it is the block form (O'Leary
1980), whose k columns search one common space, so that it needs fewer iterations than k runs of one. The directions
are made orthonormal (Dubrulle 2001) and those that have become dependent are dropped: the form that does not break
down. A direction with ``d^T A d <= 0`` stops the run, and is reported.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .solution import Matrix, Preconditioner, Solution, read_right, written

__all__ = ["cg"]

DEPENDENT = {torch.float64: 1e-26, torch.float32: 1e-12}  # of the squared length: below it a direction is rounding
STALL = 200  # iterations without any progress


def _orthonormal(v: Tensor) -> Tensor:
    """Orthonormal columns with the span of v; columns that depend on others are dropped."""
    lengths = v.norm(dim=0)
    v = v[:, lengths > 0] / lengths[lengths > 0]
    for _ in range(2):  # once more, since squaring has cost half of the digits
        if v.shape[1] == 0:
            return v
        s, q = torch.linalg.eigh((v.T @ v).double())
        keep = s > DEPENDENT.get(v.dtype, 1e-12) ** 0.5 * s[-1]
        v = v @ (q[:, keep] / s[keep].sqrt()).to(v)
    return v


def cg(
    a: Matrix,
    b: Tensor,
    *,
    damping: float = 0.0,
    preconditioner: Preconditioner | None = None,
    tolerance: float = 1e-4,
    max_iterations: int = 1000,
    x0: Tensor | None = None,
    on_iteration: Callable[[int, float], object] | None = None,
    verify: bool = True,
) -> Solution:
    """``(A + damping I)^-1 b`` for symmetric positive definite A + damping I.

    b (P,) or (P, k). ``preconditioner``: approximates the inverse of the damped matrix (its ``solve``). ``tolerance``:
    of ``|b - A x| / |b|`` for every column. ``x0``: where to start. ``on_iteration(number, residual)`` is called
    after each. ``verify=False`` saves the last product: the residual is then the recurrence's. Never raises for a hard
    matrix: see Solution.status. Raises InvalidInputError for bad arguments.
    """
    right = read_right(a, b, tolerance, max_iterations, damping)
    scale = right.norm(dim=0).double()
    x = torch.zeros_like(right) if x0 is None else (x0[:, None] if x0.dim() == 1 else x0).to(right).clone()
    x = torch.where(scale > 0, x, 0)  # where b is zero no residual is small beside it, and the answer is known
    found = Solution(written(x, b), 0.0 if x0 is None else float("nan"))
    if bool((scale == 0).all()):
        found.status, found.message = "converged", "b is zero, and so is x"
        found.value = written(torch.zeros_like(x), b)
        return found
    scale = scale.clamp_min(torch.finfo(torch.float64).tiny)

    def times(v: Tensor) -> Tensor:
        found.products += v.shape[1]
        return a @ v + damping * v if damping else a @ v

    def size(r: Tensor) -> float:
        return float((r.norm(dim=0).double() / scale).max())

    r = right - times(x) if x0 is not None else right.clone()
    found.residual, best, since = size(r), float("inf"), 0
    z = preconditioner.solve(r) if preconditioner is not None else r
    p = _orthonormal(z)
    while found.residual > tolerance and found.iterations < max_iterations:
        q = times(p)
        s = (p.T @ q).double()
        s = (s + s.T) / 2
        values, vectors = torch.linalg.eigh(s) if bool(torch.isfinite(s).all()) else (s.new_full((1,), torch.nan), s)
        if not bool(values[0] > 0):
            return _indefinite(found, written(x, b), p, values, vectors, damping)
        inverse = (vectors / values) @ vectors.T
        alpha = (inverse @ (p.T @ r).double()).to(p)
        x += p @ alpha
        r -= q @ alpha
        found.iterations += 1
        found.residual = size(r)
        found.residuals.append(found.residual)
        if on_iteration is not None:
            on_iteration(found.iterations, found.residual)
        best, since = (found.residual, 0) if found.residual < 0.999 * best else (best, since + 1)
        if since >= STALL:
            break
        z = preconditioner.solve(r) if preconditioner is not None else r
        p = _orthonormal(z - p @ (inverse @ (q.T @ z).double()).to(p))
        if p.shape[1] == 0:
            break
    found.value = written(x, b)
    return _finish(found, size(right - times(x)) if verify else found.residual, tolerance, since >= STALL)


def _indefinite(
    found: Solution, x: Tensor, p: Tensor, values: Tensor, vectors: Tensor, damping: float
) -> Solution:
    found.value, found.status = x, "indefinite"
    if not bool(torch.isfinite(values[0])):
        found.message = "a product with the matrix, or the preconditioner, gave NaN or infinity: check the operator"
        return found
    found.curvature = float(values[0])
    found.direction = p @ vectors[:, 0].to(p)
    found.message = (
        f"a direction with curvature {found.curvature:.3g} was met after {found.iterations} iterations, so the matrix "
        "is not positive definite and x is not its solution: raise damping above "
        f"{damping - found.curvature:.3g} by a margin, use minres, or the GGN in place of the Hessian"
    )
    return found


def _finish(found: Solution, true_residual: float, tolerance: float, stalled: bool) -> Solution:
    """The status, from the residual of x itself: the recurrence drifts away from it by rounding."""
    drift = max(tolerance, found.residual)
    found.residual = true_residual
    if true_residual <= 2 * tolerance:
        found.status, found.message = "converged", f"residual {true_residual:.2g} after {found.iterations} iterations"
    elif stalled or (drift <= tolerance and true_residual > 2 * tolerance):
        found.status = "stalled"
        found.message = (
            f"the residual stays at {true_residual:.2g}: rounding of the products allows no less. Loosen tolerance, "
            "use float64, or raise damping"
        )
    else:
        found.status = "iterations"
        found.message = (
            f"residual {true_residual:.2g} after {found.iterations} iterations: raise max_iterations, start again from "
            "x0=value, or give a preconditioner (LowRankFisher, nystrom)"
        )
    return found
