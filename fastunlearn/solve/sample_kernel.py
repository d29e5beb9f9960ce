"""K = G G^T as an operator that is never formed: ``K c = G (G^T c)``.

From kept factors this is two multiplications by the weight matrices for each vector. Where the factors do not fit it
is one weighted backward pass and one capture pass. So conjugate gradients in sample space need no m x m matrix:

    F^-1 G^T c = m G^T (m damping I + K)^-1 c
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.gemm import nt
from fastunlearn.operators.head import HeadSource, stretch
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.operators.sources import EmbeddingSource, LinearSource

from .sample_space import check_damping
from .solution import Solution

__all__ = ["SampleKernel", "sketched_gram", "solve_in_sample_space"]


class SampleKernel:
    """K of ``gradients``, (m, m) float64: ``K @ c`` for c (m,) or (m, k)."""

    dtype = torch.float64

    def __init__(self, gradients: SampleGradients):
        self.gradients = gradients
        self.shape = torch.Size((len(gradients), len(gradients)))

    def __matmul__(self, c: Tensor) -> Tensor:
        columns = c[:, None] if c.dim() == 1 else c
        pulled = self.gradients.pull(columns[None], dict.fromkeys(self.gradients.parameters, 0))
        found = self.gradients.dot(pulled)
        return found[:, 0] if c.dim() == 1 else found


def solve_in_sample_space(
    gradients: SampleGradients, c: Tensor, damping: float, *, tolerance: float = 1e-4, max_iterations: int = 200,
    gram: Tensor | None = None,
) -> tuple[Tensor, Solution]:  # fmt: skip
    """Weights w (m,) with ``F^-1 G^T c = G^T w``, by conjugate gradients with K, and how the solve went.

    ``gram`` (m, m): an approximation of K (:func:`sketched_gram`) to precondition with. Raises InvalidInputError.
    """
    from .cg import cg

    shift = len(gradients) * check_damping(damping)
    if c.shape[0] != len(gradients):
        raise InvalidInputError(f"c has shape {tuple(c.shape)}; it must be ({len(gradients)},): one per sample")
    preconditioner = None if gram is None else _Shifted(gram, shift)
    found = cg(SampleKernel(gradients), c.double(), damping=shift, preconditioner=preconditioner,
               tolerance=tolerance, max_iterations=max_iterations)  # fmt: skip
    return len(gradients) * found.value, found


class _Shifted:
    def __init__(self, gram: Tensor, shift: float):
        eye = torch.eye(gram.shape[0], dtype=torch.float64, device=gram.device)
        self._factor = torch.linalg.cholesky(gram.double() + shift * eye)

    def solve(self, v: Tensor) -> Tensor:
        return torch.cholesky_solve(v, self._factor)


def _gradients(source: LinearSource | HeadSource) -> Iterator[Tensor]:
    """g, whole; of an output layer that makes it anew, a stretch of tokens at a time."""
    if isinstance(source, LinearSource):
        yield source.g
        return
    step, classes = stretch(source.weight), source.weight.shape[0]
    for start in range(0, max(1, len(source.x)), step):
        yield source.gradient(0, classes, slice(start, start + step))


def sketched_gram(gradients: SampleGradients, rank: int, *, seed: int = 0) -> Tensor:
    """An unbiased estimate of K (m, m) float64 from Kronecker-wise projected gradients.

    For a linear layer x and g are projected to ``rank`` numbers each by random signs R / sqrt(rank), and the gradient
    ``(R_g g)(R_x x)^T`` is formed: rank^2 numbers instead of d_in d_out. Embeddings are projected along their width
    only, and explicit rows not at all. The relative error of an entry falls as ``1 / rank``.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise InvalidInputError(f"rank={rank!r} must be an integer of at least 1")
    m = len(gradients)
    total = torch.zeros(m, m, dtype=torch.float64, device=gradients.device)
    generator = torch.Generator().manual_seed(seed)

    def signs(width: int, like: Tensor, matrices: dict[int, Tensor]) -> Tensor:
        if width not in matrices:
            drawn = torch.randint(2, (rank, width), generator=generator).to(like) * 2 - 1
            matrices[width] = drawn / rank**0.5
        return matrices[width]

    def projected(rows: Tensor, matrices: dict[int, Tensor]) -> Tensor:
        width = rows.shape[1]
        return rows if width <= rank else nt(rows.contiguous(), signs(width, rows, matrices))

    def picked(source: EmbeddingSource, width: int, matrices: dict[int, Tensor]) -> Tensor:
        """The one-hot side of an embedding, projected."""
        if width <= rank:
            return torch.nn.functional.one_hot(source.ids, width).to(source.g)
        return signs(width, source.g, matrices)[:, source.ids].T

    for name, sources in gradients.passes():
        # x and g of one parameter have projections of their own, shared by all of its uses
        left, right, rows = {}, {}, []
        for source in sources:
            if isinstance(source, LinearSource | HeadSource):
                g = torch.cat([projected(part, right if source.transposed else left) for part in _gradients(source)])
                x = projected(source.x, left if source.transposed else right)
                small = LinearSource(*((g, x) if source.transposed else (x, g)), source.offsets)
                shape = torch.Size((small.g.shape[1], small.x.shape[1]))
                rows.append(small.tile(0, shape[0], shape))
            elif isinstance(source, EmbeddingSource) and len(sources) == 1:
                from fastunlearn.ops.ghost_gram import embedding_gram

                total += embedding_gram(source.ids, projected(source.g, left), source.offsets).double()
            elif isinstance(source, EmbeddingSource):
                wide = picked(source, gradients.parameters[name].shape[0], left)
                small = LinearSource(projected(source.g, right), wide, source.offsets)
                shape = torch.Size((small.g.shape[1], small.x.shape[1]))
                rows.append(small.tile(0, shape[0], shape))
            else:
                rows.append(source.rows)
        if rows:
            whole = sum(rows)
            total += nt(whole, whole).double()
    return total
