"""What all linear operators share: products with vectors in every form, algebra, and the view for SciPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError

from .space import Space

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator as ScipyOperator

__all__ = ["Chain", "Identity", "LinearOperator", "Scaled", "Sum"]


class LinearOperator:
    """A square matrix (P, P) over a model's parameters that is only ever multiplied with.

    ``A @ v``: v is flat ``(P,)``, a matrix ``(P, k)`` of k vectors at once, a list or tuple of tensors in the shapes
    of the parameters (``(*shape, k)`` for k vectors), or a dict of them by name. The answer has the same form, in
    ``A.dtype``. ``A @ B`` of operators, ``A + B``, ``A - B``, ``c * A``, ``-A`` are operators again, and so is
    ``A.damped(c)``, that is A + c I. ``A.to_scipy()`` serves eigsh, cg and the like.
    """

    #: The matrix is its own transpose.
    SELF_ADJOINT = True
    #: ``matmat`` takes vectors in their own dtypes too: it rounds them to those of the weights.
    ANY_DTYPE = False

    def __init__(self, space: Space) -> None:
        self.space = space
        self.shape = torch.Size((space.size, space.size))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of sums and answers: float64 for a float64 model, else float32."""
        return self.space.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters are, and vectors must be."""
        return self.space.device

    @property
    def ndim(self) -> int:
        """2: it is a matrix."""
        return 2

    @property
    def T(self) -> LinearOperator:
        """The transpose."""
        return self.adjoint()

    def adjoint(self) -> LinearOperator:
        """The transpose: itself, for all curvature matrices."""
        return self

    def matmat(self, vectors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The product with k vectors by parameter name, (k, *shape) in ``dtype``; the answer alike, in fresh memory."""
        raise NotImplementedError

    def __matmul__(self, v: Any) -> Any:
        if isinstance(v, LinearOperator):
            return Chain(self, v)
        vectors, form = self.space.read(v, widen=not self.ANY_DTYPE)
        return self.space.write(self.matmat(vectors), form)

    def __add__(self, other: LinearOperator) -> LinearOperator:
        return Sum(self, other) if isinstance(other, LinearOperator) else NotImplemented

    def __sub__(self, other: LinearOperator) -> LinearOperator:
        return Sum(self, -1.0 * other) if isinstance(other, LinearOperator) else NotImplemented

    def __mul__(self, scalar: float) -> LinearOperator:
        return Scaled(self, float(scalar)) if isinstance(scalar, int | float) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, scalar: float) -> LinearOperator:
        return self * (1.0 / scalar)

    def __neg__(self) -> LinearOperator:
        return self * -1.0

    def damped(self, damping: float) -> LinearOperator:
        """``A + damping I``."""
        return self + damping * Identity(self)

    def to_scipy(self, dtype: Any = None) -> ScipyOperator:
        """The operator as ``scipy.sparse.linalg.LinearOperator`` over NumPy arrays. ``dtype``: that which SciPy
        works in; default float64. The products themselves are in the operator's own dtype. Needs SciPy."""
        import numpy
        from scipy.sparse.linalg import LinearOperator as ScipyOperator

        def product(operator: LinearOperator) -> Callable[[numpy.ndarray], numpy.ndarray]:
            def times(x: numpy.ndarray) -> numpy.ndarray:
                # eigsh hands over views into its own workspace: copied, as torch may not alias read-only memory
                answer = operator @ torch.tensor(x, dtype=self.dtype, device=self.device)
                return answer.cpu().numpy().astype(x.dtype)

            return times

        times, back = product(self), product(self.adjoint())
        return ScipyOperator(
            tuple(self.shape), matvec=times, matmat=times, rmatvec=back, rmatmat=back, dtype=numpy.dtype(dtype)
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shape[0]} x {self.shape[1]}, {self.dtype}, {self.device})"


class Identity(LinearOperator):
    """I, over the parameters of another operator."""

    def __init__(self, like: LinearOperator) -> None:
        super().__init__(like.space)

    def matmat(self, vectors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in vectors.items()}


class Scaled(LinearOperator):
    """c A."""

    def __init__(self, operator: LinearOperator, scale: float) -> None:
        super().__init__(operator.space)
        self.operator, self.scale = operator, scale

    def adjoint(self) -> LinearOperator:
        return Scaled(self.operator.adjoint(), self.scale)

    def matmat(self, vectors: dict[str, Tensor]) -> dict[str, Tensor]:
        answer = self.operator.matmat(vectors)
        for tensor in answer.values():
            tensor.mul_(self.scale)
        return answer


def _same_space(a: LinearOperator, b: LinearOperator) -> Space:
    if a.space != b.space:
        raise InvalidInputError(f"{a!r} and {b!r} act on different parameters, dtypes or devices")
    return a.space


class Sum(LinearOperator):
    """A + B."""

    def __init__(self, a: LinearOperator, b: LinearOperator) -> None:
        super().__init__(_same_space(a, b))
        self.a, self.b = a, b

    def adjoint(self) -> LinearOperator:
        return Sum(self.a.adjoint(), self.b.adjoint())

    def matmat(self, vectors: dict[str, Tensor]) -> dict[str, Tensor]:
        answer, other = self.a.matmat(vectors), self.b.matmat(vectors)
        for name, tensor in answer.items():
            tensor.add_(other[name])
        return answer


class Chain(LinearOperator):
    """A B: first B, then A."""

    SELF_ADJOINT = False

    def __init__(self, a: LinearOperator, b: LinearOperator) -> None:
        super().__init__(_same_space(a, b))
        self.a, self.b = a, b

    def adjoint(self) -> LinearOperator:
        return Chain(self.b.adjoint(), self.a.adjoint())

    def matmat(self, vectors: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.a.matmat(self.b.matmat(vectors))
