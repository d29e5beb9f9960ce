"""The damped Fisher of m samples, inverted in sample space (arXiv 2403.10557; push-through identity).

    F = damping * I + G^T S G / m        G: rows of per-sample gradients, K = G G^T, S = diag(+1 or -1)

    F^-1 G^T c = m G^T (m damping S + K)^-1 S c                             (push-through: stable, no G v)
    F^-1 v     = (v - G^T (m damping S + K)^-1 G v) / damping               (Woodbury)
    F^p v      = damping^p v + G^T B diag((damping + t/m)^p - damping^p) B^T G v
                 K^1/2 S K^1/2 = Q diag(t) Q^T,   B = K^-1/2 Q

S is the identity except where rows were taken out of a Fisher that they were not rows of. A *block* Fisher takes
the curvature between blocks of parameters as zero: each block has its own K, and the sample weights differ by block.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError, NotPositiveDefiniteError
from fastunlearn.operators.blocks import Blocks, make_blocks
from fastunlearn.operators.gram import gram_blocks
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.operators.spread import SpreadGradients
from fastunlearn.operators.state import PassState

__all__ = ["SampleSpace", "SampleSpaceFisher", "check_damping", "cholesky"]

# Eigenvalues of K below this part of the largest are rounding errors of float64 sums; they carry no direction.
RANK_TOLERANCE = 1e-13


def check_damping(damping: float | None) -> float:
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


Vectors = dict[str, Tensor]


def _several(v: Vectors) -> Vectors:
    return {name: tensor[None] for name, tensor in v.items()}


def _single(v: Vectors) -> Vectors:
    return {name: tensor[0] for name, tensor in v.items()}


class SampleSpace:
    """The m x m side of the formulas above, by block: from products ``G v`` to weights of rows.

    gram (blocks, rows, rows) float64: K of each block. ``samples``: m. ``signs`` (rows,) +1 or -1, or None for all
    +1. Raises NotPositiveDefiniteError where F is not positive definite.
    """

    def __init__(self, gram: Tensor, damping: float, samples: int, signs: Tensor | None = None):
        self.gram, self.damping, self.samples = gram, check_damping(damping), samples
        self.signs = None if signs is None or bool((signs > 0).all()) else signs.to(gram)
        self._spectrum: tuple[Tensor, Tensor] | None = None
        damped = gram.clone()
        shift = samples * self.damping
        if self.signs is None:
            damped.diagonal(dim1=-2, dim2=-1).add_(shift)
            self._factor = cholesky(damped, "the damped Fisher", f"raise damping (it is {damping:g})")
            return
        smallest = self.damping + self.spectrum()[0].min().item() / samples
        if not smallest > 0:
            raise NotPositiveDefiniteError(
                f"the Fisher without these samples is not positive definite (smallest eigenvalue {smallest:.3g}): "
                "their curvature was not part of it; remove only samples that it was made of, or make it anew"
            )
        damped.diagonal(dim1=-2, dim2=-1).add_(shift * self.signs)
        self._lu = torch.linalg.lu_factor(damped)

    def __len__(self) -> int:
        return self.gram.shape[0]

    def inverse(self, right: Tensor) -> Tensor:
        """``(m damping S + K)^-1 right`` by block, float64; right (rows, k) or (blocks, rows, k)."""
        right = right.to(self.gram).expand(len(self), -1, -1)
        if self.signs is None:
            return torch.cholesky_solve(right, self._factor)
        return torch.linalg.lu_solve(*self._lu, right)

    def push_through(self, c: Tensor) -> Tensor:
        """Weights w (blocks, rows, k) with ``F^-1 G^T c = G^T w``; c (rows, k)."""
        c = c.to(self.gram)
        return self.samples * self.inverse(c if self.signs is None else self.signs[:, None] * c)

    def spectrum(self) -> tuple[Tensor, Tensor]:
        """t (blocks, rows) and B (blocks, rows, rows) above: the eigenvalues of ``G^T S G`` are t, and its
        eigenvectors ``G^T B``. Columns of B for eigenvalues 0 of K are 0. Kept."""
        if self._spectrum is None:
            s, u = torch.linalg.eigh(self.gram)
            live = s > RANK_TOLERANCE * s[..., -1:].clamp_min(torch.finfo(s.dtype).tiny)
            root = torch.where(live, s, 0).sqrt()
            inverse_root = torch.where(live, 1 / torch.where(live, s, 1).sqrt(), 0)
            if self.signs is None:
                self._spectrum = root**2, u * inverse_root[..., None, :]
            else:
                inner = root[..., :, None] * (u.mT @ (self.signs[:, None] * u)) * root[..., None, :]
                t, q = torch.linalg.eigh(inner)
                self._spectrum = t, u @ (inverse_root[..., :, None] * q)
        return self._spectrum

    def power(self, p: float, products: Tensor, floor: float = 0.0) -> tuple[float, Tensor]:
        """``base`` and w (blocks, rows, k) with ``F^p v = base v + G^T w``, for products ``G v`` (blocks, rows, k).

        Eigenvalues of F below ``floor`` count as ``floor``.
        """
        t, b = self.spectrum()
        least = max(self.damping, floor)
        excess = t / self.samples if least == self.damping else (self.damping - floor + t / self.samples).clamp_min(0)
        base = least**p
        more = base * torch.expm1(p * torch.log1p(excess / least))  # (least + excess)^p - base, to all digits
        return base, b @ (more[..., None] * (b.mT @ products.to(b)))

    def logdet(self, parameters: int) -> float:
        """``log det F`` for so many parameters over all blocks."""
        shift = self.samples * self.damping
        if self.signs is not None:
            inside = torch.log1p(self.spectrum()[0] / shift).sum().item()
            return inside + parameters * math.log(self.damping)
        diagonal = self._factor.diagonal(dim1=-2, dim2=-1)
        return 2 * diagonal.log().sum().item() - diagonal.numel() * math.log(shift) + parameters * math.log(
            self.damping
        )


class SampleSpaceFisher:
    """F of ``gradients`` at the model's present weights: factored once, for many solves.

    ``damping``: lambda above, in squared nats per squared unit of the weights. ``blocks``: "model", "layer",
    "tensor", or a Blocks. ``gram`` (blocks, rows, rows) float64: the Gram matrices where they are known already.
    ``samples``: m, where it is not the number of rows. ``signs``: see SampleSpace. ``state``: of the Gram's pass.

    Vectors in parameter space are dicts by parameter name. Raises InvalidInputError for a damping that is not
    above 0, and NotPositiveDefiniteError where rounding has eaten the damping.
    """

    def __init__(
        self,
        gradients: SampleGradients | SpreadGradients,
        damping: float,
        *,
        blocks: str | Blocks = "model",
        gram: Tensor | None = None,
        samples: int | None = None,
        signs: Tensor | None = None,
        state: PassState | None = None,
    ):
        self.gradients = gradients
        self.damping = check_damping(damping)
        names = list(gradients.parameters)
        self.blocks = make_blocks(names, blocks) if isinstance(blocks, str) else blocks
        if gram is not None:
            self.gram = gram
        elif isinstance(gradients, SpreadGradients):
            self.gram = gradients.gram(self.blocks)
        else:
            self.gram = gram_blocks([gradients], [(0, 0)], self.blocks, state)[0, 0]
        self.samples = len(gradients) if samples is None else samples
        self.space = SampleSpace(self.gram, self.damping, self.samples, signs)

    def inverse(self, right: Tensor) -> Tensor:
        """``(m damping I + K)^-1 right`` by block, float64; right (m, k) or (blocks, m, k)."""
        return self.space.inverse(right)

    def sample_weights(self, c: Tensor) -> Tensor:
        """Weights w (blocks, m) with ``F^-1 G^T c = G^T w`` (push-through); c (m,)."""
        rows = len(self.gradients)
        if c.shape != (rows,):
            raise InvalidInputError(f"c has shape {tuple(c.shape)}; it must be ({rows},): one per sample")
        return self.space.push_through(c[:, None])[..., 0]

    def solve_samples(self, c: Tensor) -> Vectors:
        """``F^-1 G^T c``: the solve for a right-hand side that is a sum of the samples' own gradients; c (m,)."""
        return self.gradients.weighted_gradient(self.sample_weights(c), self.blocks.of)

    def solve_samples_many(self, c: Tensor) -> Vectors:
        """The same for c (rows, k): by parameter (k, *shape)."""
        return self._pull(self.space.push_through(c))

    def outside_weights(self, cross: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """For right-hand sides ``J^T c`` of *other* samples J, with ``cross = G J^T`` (blocks, m, n):

        w (blocks, m) and u (n,) such that ``F^-1 J^T c = G^T w + J^T u`` (Woodbury in sample space).
        c is (n,), or (blocks, n) where the blocks' right-hand sides differ; u then is (blocks, n).
        """
        c = c.to(cross)
        right = cross @ (c[:, None] if c.dim() == 1 else c[..., None])
        return -self.inverse(right)[..., 0] / self.damping, c / self.damping

    def solve(self, v: Vectors) -> Vectors:
        """``F^-1 v`` by Woodbury. Loses digits as damping falls; prefer :meth:`solve_samples` where v = G^T c."""
        return _single(self.solve_many(_several(v)))

    def solve_many(self, v: Vectors) -> Vectors:
        """``F^-1 v`` for k vectors at once, by parameter (k, *shape)."""
        pulled = self._pull(self.inverse(self._products(v)))
        return {name: (v[name] - pulled[name]) / self.damping for name in pulled}

    def apply_many(self, v: Vectors) -> Vectors:
        """``F v`` for k vectors at once."""
        products = self._products(v)
        signed = products if self.space.signs is None else self.space.signs[:, None] * products
        pulled = self._pull(signed / self.samples)
        return {name: self.damping * v[name] + pulled[name] for name in pulled}

    def power(self, p: float, v: Vectors, floor: float = 0.0) -> Vectors:
        """``F^p v``; eigenvalues of F below ``floor`` count as ``floor``."""
        return _single(self.power_many(p, _several(v), floor))

    def power_many(self, p: float, v: Vectors, floor: float = 0.0) -> Vectors:
        """``F^p v`` for k vectors at once."""
        base, weights = self.space.power(p, self._products(v), floor)
        pulled = self._pull(weights)
        return {name: base * v[name] + pulled[name] for name in pulled}

    def _pull(self, weights: Tensor) -> Vectors:
        if weights.shape[-1] == 1:
            return _several(self.gradients.weighted_gradient(weights[..., 0], self.blocks.of))
        return self.gradients.pull(weights, self.blocks.of)

    def _products(self, v: Vectors) -> Tensor:
        """``G v`` by block: (blocks, rows, k)."""
        return self.gradients.dot(v, self.blocks.of)

    def diagonal(self) -> Vectors:
        """The diagonal of F, by parameter in its shape: damping plus the mean of the squared gradients."""
        signs = torch.ones(len(self.gradients), dtype=torch.float64) if self.space.signs is None else self.space.signs
        squares = self.gradients.weighted_squares(signs / self.samples)
        return {name: self.damping + total for name, total in squares.items()}

    def logdet(self) -> float:
        """``log det F`` over all parameters."""
        return self.space.logdet(sum(p.numel() for p in self.gradients.parameters.values()))
