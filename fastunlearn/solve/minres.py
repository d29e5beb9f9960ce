"""MINRES (Paige and Saunders 1975) for symmetric matrices that may be indefinite; several columns share each product.

Lanczos' recurrence with a QR factorisation of its tridiagonal matrix by Givens rotations: x minimises the residual
(in the norm of the preconditioner) over the Krylov space. Each column has its own recurrence. On the way the test of
Liu and Roosta (2022) sees a direction of non-positive curvature, the residual before the step, as soon as there is
one; it is reported.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError

from .solution import Matrix, Preconditioner, Solution, read_right, written

__all__ = ["minres"]


def _dots(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).sum(0, dtype=torch.float64)


def minres(
    a: Matrix,
    b: Tensor,
    *,
    damping: float = 0.0,
    preconditioner: Preconditioner | None = None,
    tolerance: float = 1e-4,
    max_iterations: int = 1000,
    on_indefinite: str = "go on",
) -> Solution:
    """``(A + damping I)^-1 b`` for symmetric A, which may be indefinite; b (P,) or (P, k).

    ``on_indefinite``: "go on" solves all the same and reports the direction met; "stop" stops there with status
    "indefinite", as a Newton step must. Other arguments and the result as for :func:`cg`.
    """
    right = read_right(a, b, tolerance, max_iterations, damping)
    if on_indefinite not in ("go on", "stop"):
        raise InvalidInputError(f"on_indefinite={on_indefinite!r} is unknown; use 'go on' or 'stop'")
    run = _Run(a, right, damping, preconditioner)
    found = Solution(written(run.x, b), 0.0)
    if bool(((run.scale == 0) & (run.plain > 0)).any()):
        raise InvalidInputError("preconditioner: b^T M b is not above 0 (M its solve); it must be positive definite")
    if bool((run.scale == 0).all()):
        found.status, found.message = "converged", "b is zero, and so is x"
        return found
    found.residual = 1.0
    while found.residual > tolerance / 2 and found.iterations < max_iterations:
        direction = run.step()
        found.iterations += 1
        if direction is not None and found.direction is None:
            found.direction, found.curvature = direction, run.curvature(direction)
            if on_indefinite == "stop":
                found.status = "indefinite"
                break
        found.residual = float((run.residual / run.scale.clamp_min(1e-300)).max())
        found.residuals.append(found.residual)
        if run.exhausted:
            break
    found.value = written(run.x, b)
    true = right - run.times(run.x)
    found.residual = float((true.norm(dim=0).double() / run.plain.clamp_min(1e-300)).max())
    found.products = run.products
    return _finish(found, tolerance, preconditioner is None and found.residuals[-1] <= tolerance / 2)


class _Run:
    """The recurrences of all columns, by the names of Paige and Saunders."""

    def __init__(self, a: Matrix, right: Tensor, damping: float, preconditioner: Preconditioner | None):
        self.a, self.damping, self.preconditioner = a, damping, preconditioner
        self.products, self.exhausted = 0, False
        self.plain = right.norm(dim=0).double()
        k = right.shape[1]
        self.x = torch.zeros_like(right)
        self.r1, self.r2 = right, right.clone()
        self.y = self.apply(right)
        self.beta = _dots(right, self.y).clamp_min(0).sqrt()
        self.scale = self.beta.clone()  # |b| in the norm of the preconditioner
        self.residual = self.beta.clone()
        zero = self.beta.new_zeros(k)
        self.old_beta, self.cosine, self.sine, self.delta_bar, self.epsilon = zero, zero - 1, zero, zero, zero
        self.w, self.w2 = torch.zeros_like(right), torch.zeros_like(right)
        self.r = right.clone()  # the residual itself, for the direction of non-positive curvature

    def apply(self, r: Tensor) -> Tensor:
        return r if self.preconditioner is None else self.preconditioner.solve(r)

    def times(self, v: Tensor) -> Tensor:
        self.products += v.shape[1]
        product = self.a @ v
        return product + self.damping * v if self.damping else product

    def curvature(self, d: Tensor) -> float:
        """``d^T A d / d^T d``."""
        return float(_dots(d[:, None], self.times(d[:, None])) / _dots(d[:, None], d[:, None]))

    def step(self) -> Tensor | None:
        """One iteration; a direction of non-positive curvature where the test finds one."""
        live = self.beta > 0
        safe = torch.where(live, self.beta, 1)
        v = self.y * torch.where(live, 1 / safe, 0).to(self.y)
        y = self.times(v)
        started = self.old_beta > 0
        y -= self.r1 * torch.where(started, self.beta / torch.where(started, self.old_beta, 1), 0).to(y)
        alpha = _dots(v, y)
        y -= self.r2 * (alpha / safe).to(y)
        self.r1, self.r2 = self.r2, y
        self.y = self.apply(y)
        self.old_beta, self.beta = self.beta, _dots(y, self.y).clamp_min(0).sqrt()

        old_epsilon = self.epsilon
        delta = self.cosine * self.delta_bar + self.sine * alpha
        gamma_bar = self.sine * self.delta_bar - self.cosine * alpha
        self.epsilon = self.sine * self.beta
        self.delta_bar = -self.cosine * self.beta
        found = self._non_positive(gamma_bar, live)
        gamma = torch.hypot(gamma_bar, self.beta).clamp_min(torch.finfo(torch.float64).tiny)
        self.cosine, self.sine = gamma_bar / gamma, self.beta / gamma
        step = self.cosine * self.residual
        w1, self.w2 = self.w2, self.w
        self.w = (v - w1 * old_epsilon.to(v) - self.w2 * delta.to(v)) * torch.where(live, 1 / gamma, 0).to(v)
        self.x += self.w * torch.where(live, step, 0).to(v)
        # r_k = s^2 r_(k-1) - phi c v_(k+1); v_(k+1) is y / beta before it is preconditioned
        follow = torch.where(self.beta > 0, self.residual * self.sine * self.cosine / self.beta.clamp_min(1e-300), 0)
        self.r = self.r * (self.sine**2).to(v) - self.r2 * follow.to(v)
        self.residual = self.residual * self.sine
        top = torch.maximum(self.old_beta, alpha.abs())
        self.beta = torch.where(self.beta > 1e-15 * top, self.beta, 0)  # the Krylov space is exhausted
        self.exhausted = not bool((self.beta > 0).any())
        return found

    def _non_positive(self, gamma_bar: Tensor, live: Tensor) -> Tensor | None:
        # The residual before this step, d = M r, has d^T A d = -|r|^2 c_(k-1) gamma_bar_k (Liu and Roosta, lemma 2).
        test = torch.where(live, self.cosine * gamma_bar, -1)
        column = int(test.argmax())
        return self.apply(self.r)[:, column] if float(test[column]) >= 0 else None


def _finish(found: Solution, tolerance: float, ended: bool) -> Solution:
    """The status, from the residual of x itself. ``ended``: by the recurrence it is small enough."""
    met = ""
    if found.direction is not None:
        met = f"; a direction with curvature {found.curvature:.3g} was met, so the matrix is not positive definite"
    if found.status == "indefinite":
        found.message = (
            f"stopped after {found.iterations} iterations{met}: raise damping, or use the direction to leave the saddle"
        )
    elif found.residual <= 2 * tolerance:
        found.status = "converged"
        found.message = f"residual {found.residual:.2g} after {found.iterations} iterations{met}"
    elif ended:
        found.status = "stalled"
        found.message = (
            f"the residual stays at {found.residual:.2g}{met}: rounding of the products allows no less. Loosen "
            "tolerance, use float64, or raise damping"
        )
    else:
        found.message = (
            f"residual {found.residual:.2g} after {found.iterations} iterations{met}: raise max_iterations, raise "
            "damping, or give a preconditioner; where the matrix is singular no x may reach the tolerance"
        )
    return found
