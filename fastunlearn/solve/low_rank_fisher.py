"""The damped Fisher of m samples, inverted in sample space (arXiv 2403.10557; push-through identity).

    F = damping * I + G^T G / m          G: m x P per-sample gradients, K = G G^T: m x m

    F^-1 G^T c = m G^T (m damping I + K)^-1 c                               (push-through: stable, no G v)
    F^-1 v     = (v - G^T (m damping I + K)^-1 G v) / damping               (Woodbury)
    F^p v      = damping^p v + G^T U diag(((damping + s/m)^p - damping^p) / s) U^T G v,   K = U diag(s) U^T

A *block* Fisher takes the curvature between blocks of parameters as zero: each block has its own K, and the
sample weights above differ by block.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError, NotPositiveDefiniteError
from fastunlearn.operators.blocks import Blocks, make_blocks
from fastunlearn.operators.gram import gram_blocks
from fastunlearn.operators.sample_gradients import SampleGradients

__all__ = ["LowRankFisher", "check_damping", "cholesky"]


def check_damping(damping: float) -> float:
    """``damping`` as a float; raises InvalidInputError unless it is finite and above zero."""
    if isinstance(damping, bool) or not isinstance(damping, int | float) or not 0 < damping < math.inf:
        raise InvalidInputError(
            f"damping={damping!r} must be a finite number above 0: without it the Fisher of fewer samples "
            "than parameters has no inverse (try 1e-4)"
        )
    return float(damping)


def cholesky(matrix: Tensor, what: str, mend: str) -> Tensor:
    """Lower Cholesky factor of each matrix of a (..., n, n) stack.

    Raises NotPositiveDefiniteError naming ``what`` it is and the ``mend`` where there is none.
    """
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if bool((failed != 0).any()) or not bool(torch.isfinite(factor).all()):
        smallest = torch.linalg.eigvalsh(matrix).min().item() if bool(torch.isfinite(matrix).all()) else math.nan
        raise NotPositiveDefiniteError(
            f"{what} is not positive definite (smallest eigenvalue {smallest:.3g}), so no step is taken: {mend}"
        )
    return factor


class LowRankFisher:
    """F of ``gradients`` at the model's present weights: factored once, for many solves.

    ``damping``: lambda above, in squared nats per squared unit of the weights. ``blocks``: "model", "layer",
    "tensor", or a Blocks. ``gram`` (blocks, m, m) float64: the Gram matrices where they are known already.

    Vectors in parameter space are dicts by parameter name. Raises InvalidInputError for a damping that is not
    above 0, and NotPositiveDefiniteError where rounding has eaten the damping.
    """

    def __init__(
        self, gradients: SampleGradients, damping: float, *, blocks: str | Blocks = "model", gram: Tensor | None = None
    ):
        self.gradients = gradients
        self.damping = check_damping(damping)
        names = list(gradients.parameters)
        self.blocks = make_blocks(names, blocks) if isinstance(blocks, str) else blocks
        self.gram = gram_blocks([gradients], [(0, 0)], self.blocks)[0, 0] if gram is None else gram
        self.samples = len(gradients)
        damped = self.gram.clone()
        damped.diagonal(dim1=-2, dim2=-1).add_(self.samples * self.damping)
        self._factor = cholesky(damped, "the damped Fisher", f"raise damping (it is {self.damping:g})")
        self._eigen: tuple[Tensor, Tensor] | None = None

    def inverse(self, right: Tensor) -> Tensor:
        """``(m damping I + K)^-1 right`` by block, float64; right (m, k) or (blocks, m, k)."""
        return torch.cholesky_solve(right.to(self._factor).expand(len(self.blocks), -1, -1), self._factor)

    def sample_weights(self, c: Tensor) -> Tensor:
        """Weights w (blocks, m) with ``F^-1 G^T c = G^T w`` (push-through); c (m,)."""
        if c.shape != (self.samples,):
            raise InvalidInputError(f"c has shape {tuple(c.shape)}; it must be ({self.samples},): one per sample")
        return self.samples * self.inverse(c[:, None])[..., 0]

    def solve_samples(self, c: Tensor) -> dict[str, Tensor]:
        """``F^-1 G^T c``: the solve for a right-hand side that is a sum of the samples' own gradients."""
        return self.gradients.weighted_gradient(self.sample_weights(c), self.blocks.of)

    def outside_weights(self, cross: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """For right-hand sides ``J^T c`` of *other* samples J, with ``cross = G J^T`` (blocks, m, n):

        w (blocks, m) and u (n,) such that ``F^-1 J^T c = G^T w + J^T u`` (Woodbury in sample space).
        c is (n,), or (blocks, n) where the blocks' right-hand sides differ; u then is (blocks, n).
        """
        c = c.to(cross)
        right = cross @ (c[:, None] if c.dim() == 1 else c[..., None])
        return -self.inverse(right)[..., 0] / self.damping, c / self.damping

    def solve(self, v: dict[str, Tensor]) -> dict[str, Tensor]:
        """``F^-1 v`` by Woodbury. Loses digits as damping falls; prefer :meth:`solve_samples` where v = G^T c."""
        products = self._products(v)
        pulled = self.gradients.weighted_gradient(self.inverse(products)[..., 0], self.blocks.of)
        return {name: (v[name] - pulled[name]) / self.damping for name in pulled}

    def _products(self, v: dict[str, Tensor]) -> Tensor:
        """``G v`` by block: (blocks, m, 1)."""
        return self.gradients.dot({name: tensor[None] for name, tensor in v.items()}, self.blocks.of)

    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues s (blocks, m), ascending, not below 0, and eigenvectors (blocks, m, m) of K, kept."""
        if self._eigen is None:
            s, u = torch.linalg.eigh(self.gram)
            self._eigen = s.clamp_min(0), u
        return self._eigen

    def power(self, p: float, v: dict[str, Tensor], floor: float = 0.0) -> dict[str, Tensor]:
        """``F^p v`` for any real p. ``floor``: eigenvalues of F (damping included) below it count as ``floor``, which
        bounds what a negative power does to flat directions."""
        s, u = self.eigen()
        base = max(self.damping, floor) ** p
        curved = (self.damping + s / self.samples).clamp_min(floor) ** p
        # Directions without curvature are left to the first term; dividing by their s would be noise.
        live = s > s.amax(-1, keepdim=True) * 1e-12
        factor = torch.where(live, (curved - base) / torch.where(live, s, 1), 0)
        inner = u @ (factor[..., None] * (u.mT @ self._products(v)))
        pulled = self.gradients.weighted_gradient(inner[..., 0], self.blocks.of)
        return {name: base * v[name] + pulled[name] for name in pulled}

    def logdet(self) -> float:
        """``log det F`` over all parameters."""
        diagonal = self._factor.diagonal(dim1=-2, dim2=-1)
        parameters = sum(p.numel() for p in self.gradients.parameters.values())
        inside = 2 * diagonal.log().sum().item() - len(self.blocks) * self.samples * math.log(self.samples)
        return inside + (parameters - len(self.blocks) * self.samples) * math.log(self.damping)
