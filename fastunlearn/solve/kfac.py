"""K-FAC (Martens and Grosse 2015) and EK-FAC (George et al. 2018): the approximation that users compare with.

For a linear layer with inputs x_t and output gradients g_t, over the N tokens of m samples, the Fisher's block is taken
to be a Kronecker product,

    F ~ B (x) A + damping I        A = sum_t x_t x_t^T / N,    B = sum_t g_t g_t^T / m

(B (x) A acts on a weight W of shape (d_out, d_in) as B W A). It is inverted exactly, damping included, by the
eigenvectors of A and B: ``Q_B [ (Q_B^T W Q_A) / (s_B s_A^T + damping) ] Q_A^T``. EK-FAC keeps the eigenvectors and
replaces the products ``s_B s_A^T`` by the second moments of the samples' own gradients in that basis, which makes its
diagonal exact. Weights of embeddings, biases and norms have their diagonal. The same capture serves as for the Gram.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.operators.sources import LinearSource, outer_sums, tiles

from .sample_space import check_damping

__all__ = ["KFAC"]


class KFAC:
    """K-FAC of ``gradients`` (corrected=True: EK-FAC). Vectors are dicts by parameter, in its shape.

    Weights with several uses (tied) have their diagonal. Raises InvalidInputError.
    """

    def __init__(self, gradients: SampleGradients, damping: float, *, corrected: bool = False):
        self.damping, self.corrected = check_damping(damping), corrected
        self._shapes = {name: p.shape for name, p in gradients.parameters.items()}
        self._bases: dict[str, tuple[Tensor, Tensor]] = {}
        self._moments: dict[str, Tensor] = {}
        m, room = len(gradients), gradients.memory_bytes // 4
        for name, sources in gradients.passes():
            if len(sources) == 1 and isinstance(sources[0], LinearSource):
                self._add_linear(name, sources[0], m, room)
            else:
                parts = [tile.square().sum(0) for _, tile in tiles(sources, m, self._shapes[name], room)]
                self._moments[name] = torch.cat(parts).view(self._shapes[name]) / m

    def _add_linear(self, name: str, source: LinearSource, m: int, room: int) -> None:
        wide = torch.promote_types(source.g.dtype, torch.float32)  # eigenvectors of two digits would be none
        x, g = source.x.to(wide), source.g.to(wide)
        rows, columns = (x, g) if source.transposed else (g, x)
        tokens = max(1, len(source.x))
        halves = []
        for part, count in ((rows, tokens if source.transposed else m), (columns, m if source.transposed else tokens)):
            halves.append(torch.linalg.eigh(part.double().T @ part.double() / count))
        (s_left, left), (s_right, right) = halves
        self._bases[name] = left.to(rows), right.to(rows)
        if not self.corrected:
            self._moments[name] = torch.outer(s_left.clamp_min(0), s_right.clamp_min(0)).to(rows)
            return
        turned, other = rows @ left.to(rows), columns @ right.to(rows)
        step = max(1, room // max(1, m * turned.shape[1] * 8))
        parts = [
            outer_sums(turned[:, i : i + step], other, source.offsets).square().sum(0)
            for i in range(0, turned.shape[1], step)
        ]
        self._moments[name] = torch.cat(parts).view(turned.shape[1], other.shape[1]) / m

    def _apply(self, v: dict[str, Tensor], function) -> dict[str, Tensor]:
        if list(v) != list(self._shapes):
            raise InvalidInputError("v must be a dict with one tensor for each parameter, in their order")
        found = {}
        for name, tensor in v.items():
            moments = self._moments[name]
            if name not in self._bases:
                found[name] = tensor * function(moments + self.damping)
                continue
            left, right = self._bases[name]
            inside = left.T @ tensor.to(left) @ right
            found[name] = left @ (inside * function(moments + self.damping)) @ right.T
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
        return sum(float((s.double() + self.damping).log().sum()) for s in self._moments.values())
