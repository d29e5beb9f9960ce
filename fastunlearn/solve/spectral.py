"""The large end of a spectrum from products with k vectors at once: randomised Nystrom and block Lanczos.

Nystrom (Frangella, Tropp, Udell 2021), for positive semi-definite A:  Y = A Omega,  A ~ Y (Omega^T Y)^-1 Y^T, found
stably with a shift nu ~ eps |Y| and kept as U diag(s) U^T. Block Lanczos with full re-orthogonalisation, for any
symmetric A: A Q_j = Q_(j-1) B_(j-1)^T + Q_j A_j + Q_(j+1) B_j; the eigenpairs of the block tridiagonal matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError, NotPositiveDefiniteError

from .solution import Matrix

__all__ = ["Eigenpairs", "Nystrom", "lanczos", "nystrom"]


def _start(a: Matrix, k: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(a.shape[0], k, generator=generator, dtype=torch.float32).to(a.dtype)
    return torch.linalg.qr(start.to(getattr(a, "device", "cpu")))[0]


def _check(a: Matrix, **numbers: int) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidInputError(f"{name}={value!r} must be an integer of at least 1")
    if numbers.get("rank", 1) > a.shape[0]:
        raise InvalidInputError(f"rank={numbers['rank']} is more than the {a.shape[0]} rows of the matrix")


@dataclass
class Nystrom:
    """``A ~ U diag(s) U^T``: vectors U (P, r) orthonormal, values s (r,) descending, not below 0. ``damping``: of the
    inverse. It is a preconditioner for ``A + damping I``."""

    vectors: Tensor
    values: Tensor
    damping: float

    def __matmul__(self, v: Tensor) -> Tensor:
        s = self.values if v.dim() == 1 else self.values[:, None]
        return self.vectors @ (s * (self.vectors.T @ v))

    def solve(self, v: Tensor) -> Tensor:
        """``(U diag(s) U^T + s_r (I - U U^T) + damping I)^-1 v``: outside of U the least eigenvalue seen stands in, as
        a preconditioner needs it; v (P,) or (P, k)."""
        inside = self.vectors.T @ v
        s = self.values if v.dim() == 1 else self.values[:, None]
        outside = 1 / (self.values[-1] + self.damping)
        return outside * v + self.vectors @ ((1 / (s + self.damping) - outside) * inside)


def nystrom(a: Matrix, rank: int, *, damping: float, seed: int = 0, at_once: int = 16) -> Nystrom:
    """Rank-``rank`` approximation of a positive semi-definite A from ``rank`` products, ``at_once`` vectors at a time.

    Raises InvalidInputError, and NotPositiveDefiniteError where A has a clearly negative direction.
    """
    _check(a, rank=rank, at_once=at_once)
    if not 0 < damping < float("inf"):
        raise InvalidInputError(f"damping={damping!r} must be a finite number above 0")
    omega = _start(a, rank, seed)
    y = torch.cat([a @ omega[:, i : i + at_once].contiguous() for i in range(0, rank, at_once)], 1)
    shift = torch.finfo(y.dtype).eps * float(y.norm())
    core = (omega.T @ y).double()
    core = (core + core.T) / 2
    lowest = float(torch.linalg.eigvalsh(core)[0]) if bool(torch.isfinite(core).all()) else float("nan")
    if not lowest > -10 * rank**0.5 * shift - 1e-300:
        raise NotPositiveDefiniteError(
            f"nystrom: the matrix has a direction of curvature {lowest:.3g}; it must be positive semi-definite (use "
            "lanczos for a Hessian, or the GGN)"
        )
    y = (y + shift * omega).double()
    core.diagonal().add_(shift)
    s, q = torch.linalg.eigh(core)
    b = y @ (q / s.clamp_min(1e-300 + shift * 1e-3).sqrt())
    # U and the squares of the singular values of b, from its small Gram: b is P x rank
    squares, right = torch.linalg.eigh(b.T @ b)
    squares, right = squares.flip(0), right.flip(1)
    keep = squares > 1e-14 * squares[0]
    keep[0] = True  # of a zero matrix too
    vectors = torch.linalg.qr(b @ right[:, keep])[0]
    return Nystrom(vectors.to(a.dtype), (squares[keep] - shift).clamp_min(0).to(a.dtype), float(damping))


@dataclass
class Eigenpairs:
    """``values`` (r,) descending by magnitude, ``vectors`` (P, r) orthonormal, ``residuals`` (r,):
    ``|A v - value v|`` of each. ``products``: vectors multiplied."""

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    products: int


def lanczos(
    a: Matrix, rank: int, *, block: int = 4, max_steps: int = 100, tolerance: float = 1e-4, seed: int = 0
) -> Eigenpairs:
    """The ``rank`` eigenpairs of largest magnitude of a symmetric A, to ``tolerance`` times the largest eigenvalue.

    ``block``: vectors multiplied at once; a multiple eigenvalue needs a block of its multiplicity. Keeps all vectors:
    P x block x steps numbers. Where ``max_steps`` are not enough the residuals say how far each pair is. Raises
    InvalidInputError.
    """
    _check(a, rank=rank, block=block, max_steps=max_steps)
    block = min(block, a.shape[0])
    q = _start(a, block, seed)
    basis, images = [q], []
    while True:
        images.append(a @ basis[-1])
        whole, times = torch.cat(basis, 1), torch.cat(images, 1)
        small = (whole.T @ times).double()
        values, inner = torch.linalg.eigh((small + small.T) / 2)
        order = values.abs().argsort(descending=True)[:rank]
        values, inner = values[order], inner[:, order]
        vectors = whole @ inner.to(whole)
        residuals = (times @ inner.to(times) - vectors * values.to(vectors)).norm(dim=0)
        done = len(order) == rank and bool((residuals <= tolerance * values.abs().max()).all())
        room = a.shape[0] - whole.shape[1]
        if done or len(images) >= max_steps or room < 1:
            return Eigenpairs(values.to(a.dtype), vectors, residuals, whole.shape[1])
        fresh = images[-1]
        for _ in range(2):  # twice is enough
            fresh = fresh - whole @ (whole.T @ fresh)
        lengths = fresh.norm(dim=0)
        lost = lengths <= 1e-6 * values.abs().max()
        if bool(lost.any()):  # an invariant space was found: go on in a random direction
            filler = _start(a, block, seed + len(images))
            fresh = torch.where(lost, filler - whole @ (whole.T @ filler), fresh)
            fresh = fresh - whole @ (whole.T @ fresh)
        basis.append(torch.linalg.qr(fresh)[0][:, :room].contiguous())
