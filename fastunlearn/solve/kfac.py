"""K-FAC (Martens and Grosse 2015) and EK-FAC (George et al. 2018): the approximation that users compare with.

For a linear layer with inputs x_t and output gradients g_t, over the N tokens of m samples, the Fisher's block is taken
to be a Kronecker product,

    F ~ B (x) A + damping I        A = sum_t x_t x_t^T / N,    B = sum_t g_t g_t^T / m

(B (x) A acts on a weight W of shape (d_out, d_in) as B W A). It is inverted exactly, damping included, by the
eigenvectors of A and B: ``Q_B [ (Q_B^T W Q_A) / (s_B s_A^T + damping) ] Q_A^T``. EK-FAC keeps the eigenvectors and
replaces the products ``s_B s_A^T`` by the second moments of the samples' own gradients in that basis, which makes its
diagonal exact. Weights of embeddings, biases and norms have their diagonal. The same capture serves as for the Gram.

``damping=None`` takes a tenth of the mean eigenvalue of each weight's own block, as is usual for influence scores: a
single number for all is too large for one layer where it is right for another.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.gemm import nt
from fastunlearn.operators.gram import together
from fastunlearn.operators.head import HeadSource
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.operators.sources import LinearSource, Source, by_length, outer_sums, tiles
from fastunlearn.ops.ghost_gram.formed import add_product, mirror_upper

from .sample_space import check_damping

__all__ = ["KFAC"]

SQUARED = 64  # samples
SHARE = 0.1  # of a block's mean eigenvalue, where no damping is given


class KFAC:
    """K-FAC of ``gradients`` (corrected=True: EK-FAC). Vectors are dicts by parameter, in its shape.

    ``damping``: one number, or None (above). Weights with several uses (tied) have their diagonal. ``own_gram``: in the
    same passes ``G F^-1 G^T`` of these gradients is summed, as :meth:`gram` would; it needs a number as damping. Raises
    InvalidInputError.
    """

    def __init__(
        self, gradients: SampleGradients, damping: float | None, *, corrected: bool = False, own_gram: bool = False
    ):
        if own_gram and damping is None:
            raise InvalidInputError("own_gram=True needs a number as damping: None is known after the passes only")
        self.damping, self.corrected = None if damping is None else check_damping(damping), corrected
        self._shapes = {name: p.shape for name, p in gradients.parameters.items()}
        self._bases: dict[str, tuple[Tensor, Tensor]] = {}
        self._moments: dict[str, Tensor] = {}
        m, room = len(gradients), gradients.memory_bytes // 8
        self._own = weakref.ref(gradients)
        #: G F^-1 G^T (m, m), float64; None where it was not asked for.
        self.own_gram = torch.zeros(m, m, dtype=torch.float64, device=gradients.device) if own_gram else None
        for name, sources in gradients.passes():
            if len(sources) == 1 and isinstance(sources[0], LinearSource | HeadSource):
                self._add_basis(name, sources[0], m)
            self._add_moments(name, sources, m, room)
        self._dampings = {name: self._damping_of(name) for name in self._shapes}

    def _damping_of(self, name: str) -> float:
        if self.damping is not None:
            return self.damping
        mean = float(self._moments[name].mean(dtype=torch.float64))
        if not mean > 0:
            raise InvalidInputError(
                f"damping=None takes a tenth of the mean eigenvalue of each weight's block, and that of {name!r} is 0: "
                "no sample has a gradient there; give a damping above 0, or leave that parameter out"
            )
        return SHARE * mean

    def _add_basis(self, name: str, source: LinearSource | HeadSource, m: int) -> None:
        rows, columns = _sides(source)
        tokens = max(1, len(source.x))
        halves = []
        for part, count in ((rows, tokens if source.transposed else m), (columns, m if source.transposed else tokens)):
            halves.append(torch.linalg.eigh(part.double().T @ part.double() / count))
        (s_left, left), (s_right, right) = halves
        self._bases[name] = left.to(rows), right.to(rows)
        if not self.corrected:
            self._moments[name] = torch.outer(s_left.clamp_min(0), s_right.clamp_min(0)).to(rows)

    def _add_moments(self, name: str, sources: list[Source], m: int, room: int) -> None:
        """The diagonal of one parameter's block, where it is not known yet, and the block's part of ``own_gram``."""
        known, gram = self._moments.get(name), self.own_gram
        if known is not None and gram is None:
            return
        order, turned = self._turned(name, sources, m, room)
        part, parts = None if gram is None else torch.zeros_like(gram), []
        for some, tile in turned:
            moments = known.flatten()[some] if known is not None else _square_sums(tile) / m
            parts.append(moments)
            if part is not None and self.damping is not None:
                self._add_white(part, name, tile, (moments + self.damping).rsqrt())
        if known is None:
            self._moments[name] = torch.cat(parts).view(self._shape_inside(name))
        if gram is not None and part is not None:
            gram += _mirrored(part, order)

    def _shape_inside(self, name: str) -> torch.Size:
        """The parameter's shape, in its basis."""
        return torch.Size(basis.shape[1] for basis in self._bases[name]) if name in self._bases else self._shapes[name]

    def _add_white(self, part: Tensor, name: str, tile: Tensor, root: Tensor) -> None:
        """Adds the upper half of the Gram of ``tile * root``; a tile of its own it overwrites."""
        add_product(part, tile.mul_(root) if name in self._bases else tile * root, None)

    def _turned(
        self, name: str, sources: list[Source], m: int, room: int, step: int | None = None
    ) -> tuple[Tensor | None, Iterator[tuple[slice, Tensor]]]:
        """Per-sample gradients of one parameter in its basis, a few rows of it at a time: as ``tiles``, but for the
        order of the samples, which comes first (None: their own), and one memory for all tiles."""
        if name not in self._bases:
            return None, tiles(sources, m, self._shapes[name], room, step=step)
        (source,) = sources
        assert isinstance(source, LinearSource | HeadSource)  # as it was where the basis was made
        order, tokens, offsets = by_length(source.offsets)
        sides = [side[tokens] for side in _sides(source)]
        return order, self._tiles_inside(name, sides, offsets, step or self._step(name, m, room))

    def _tiles_inside(
        self, name: str, sides: list[Tensor], offsets: Tensor, step: int
    ) -> Iterator[tuple[slice, Tensor]]:
        turned, other = (side @ basis.to(side) for side, basis in zip(sides, self._bases[name], strict=True))
        height, width = turned.shape[1], other.shape[1]
        buffer = turned.new_empty((offsets.numel() - 1) * min(step, height) * width)
        for low in range(0, height, step):
            high = min(height, low + step)
            yield slice(low * width, high * width), outer_sums(turned[:, low:high], other, offsets, buffer)

    def _step(self, name: str, m: int, room: int) -> int:
        """Rows of a parameter in a tile of ``room`` bytes in float64."""
        shape = self._shapes[name]
        width = shape.numel() // max(1, shape[0]) if len(shape) else 1
        return max(1, room // max(1, m * width * 8))

    def products(self, a: SampleGradients, b: SampleGradients) -> tuple[Tensor, Tensor]:
        """``G_a F^-1 G_b^T`` (m_a, m_b), and the diagonal of ``G_b F^-1 G_b^T`` (m_b,), float64; of the same parameters
        as F. Gradients are formed a tile at a time, in the basis where F is diagonal."""
        found = torch.zeros(len(a), len(b), dtype=torch.float64, device=a.device)
        own = torch.zeros(len(b), dtype=torch.float64, device=a.device)
        if list(a.parameters) != list(self._shapes) or list(b.parameters) != list(self._shapes):
            raise InvalidInputError("a and b must be gradients of the parameters that F is of, in their order")
        room = a.memory_bytes // 8
        for name, (left, right) in together([a, b], a.memory_bytes // 2):
            inverse = (self._moments[name] + self._dampings[name]).reciprocal().flatten()
            step = self._step(name, max(len(a), len(b)), room)
            (order, some), (other_order, others) = (
                self._turned(name, side, len(gradients), room, step) for side, gradients in ((left, a), (right, b))
            )
            part, own_part = torch.zeros_like(found), torch.zeros_like(own)
            for (which, one), (_, other) in zip(some, others, strict=True):
                scaled = other * inverse[which]
                part += nt(one, scaled)
                own_part += (scaled * other).sum(1, dtype=torch.float64)
            found += _in_place(_in_place(part, order).T, other_order).T
            own += _in_place(own_part, other_order)
        return found, own

    def gram(self, a: SampleGradients) -> Tensor:
        """``G_a F^-1 G_a^T`` (m_a, m_a), float64, symmetric; of the same parameters as F. Formed as in ``products``,
        but for the gradients that F was made of, with ``own_gram``: those are summed already."""
        if list(a.parameters) != list(self._shapes):
            raise InvalidInputError("a must be gradients of the parameters that F is of, in their order")
        if self.own_gram is not None and a is self._own():
            return self.own_gram.clone()
        found = torch.zeros(len(a), len(a), dtype=torch.float64, device=a.device)
        room = a.memory_bytes // 8
        for name, sources in a.passes():
            root = (self._moments[name] + self._dampings[name]).rsqrt().flatten()
            order, turned = self._turned(name, sources, len(a), room)
            part = torch.zeros_like(found)
            for some, tile in turned:
                self._add_white(part, name, tile, root[some])
            found += _mirrored(part, order)
        return found

    def _apply(self, v: dict[str, Tensor], function: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        if list(v) != list(self._shapes):
            raise InvalidInputError("v must be a dict with one tensor for each parameter, in their order")
        found = {}
        for name, tensor in v.items():
            damped = self._moments[name] + self._dampings[name]
            if name not in self._bases:
                found[name] = tensor * function(damped)
                continue
            left, right = self._bases[name]
            inside = left.T @ tensor.to(left) @ right
            found[name] = left @ (inside * function(damped)) @ right.T
        return found

    def apply(self, v: dict[str, Tensor]) -> dict[str, Tensor]:
        """``F v``."""
        return self._apply(v, lambda s: s)

    def solve(self, v: dict[str, Tensor]) -> dict[str, Tensor]:
        """``F^-1 v``."""
        return self._apply(v, torch.reciprocal)

    def power(self, p: float, v: dict[str, Tensor]) -> dict[str, Tensor]:
        """``F^p v``."""
        return self._apply(v, lambda s: s**p)

    def logdet(self) -> float:
        """``log det F``."""
        return sum(float((s.double() + self._dampings[name]).log().sum()) for name, s in self._moments.items())


def _sides(source: LinearSource | HeadSource) -> tuple[Tensor, Tensor]:
    """The factors by token in the order of the stored weight, at least float32: eigenvectors of two digits would be
    none."""
    wide = torch.promote_types(source.x.dtype, torch.float32)
    x, g = source.x.to(wide), source.g.to(wide)
    return (x, g) if source.transposed else (g, x)


def _square_sums(tile: Tensor) -> Tensor:
    """Sums of squares down the columns, a few rows at a time: what is squared stays in the caches."""
    total = tile.new_zeros(tile.shape[1])
    for rows in tile.split(SQUARED):
        total += rows.square().sum(0)
    return total


def _in_place(rows: Tensor, order: Tensor | None) -> Tensor:
    """Rows that stand in this order, each in its own place again."""
    return rows if order is None else rows[torch.argsort(order)]


def _mirrored(part: Tensor, order: Tensor | None) -> Tensor:
    """A symmetric matrix of samples in this order, from its upper half: whole, and each sample in its own place."""
    mirror_upper(part)
    return _in_place(_in_place(part, order).T, order)
