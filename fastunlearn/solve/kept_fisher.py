"""A Fisher that is kept from training time, so that later deletions need no retained data.

    m F = m damping I + U A U^T        U: P x r orthonormal (the top eigenvectors of G^T G), A: r x r

Freshly made, A is the diagonal of the top eigenvalues. Records J that are deleted later are *down-dated*:
``A <- A - (J U)^T (J U)``, which is exactly the Fisher without them, seen in the span of U. What is left must be
positive definite with the damping added; it is whenever J was part of what was kept (at the same weights), and
where it is not the down-date is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fastunlearn.data.encode import Encoded
from fastunlearn.errors import InvalidInputError, NotPositiveDefiniteError
from fastunlearn.operators.blocks import make_blocks
from fastunlearn.operators.gram import gram_blocks
from fastunlearn.operators.model_state import select_parameters
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.progress import Progress
from fastunlearn.storage.files import write_tensors

from .fingerprint import fingerprint
from .sample_space import check_damping

__all__ = ["KeptFisher", "fingerprint", "keep_fisher"]

FORMAT = "fastunlearn-kept-fisher-1"


@dataclass
class KeptFisher:
    """``vectors``: by parameter (r, *shape), orthonormal rows over all parameters together. ``core``: A above,
    (r, r) float64. ``samples``: m, less those removed. ``weights``: the fingerprint of the parameters it is of."""

    vectors: dict[str, Tensor]
    core: Tensor
    damping: float
    samples: int
    kind: str
    weights: str

    @property
    def rank(self) -> int:
        return self.core.shape[0]

    def check_model(self, parameters: dict[str, Tensor]) -> None:
        """Raises InvalidInputError unless this was kept for exactly these parameters with these values."""
        if list(parameters) != list(self.vectors):
            raise InvalidInputError("kept_fisher was kept for other parameters: choose the same ones by pattern")
        if fingerprint(parameters) != self.weights:
            raise InvalidInputError(
                "kept_fisher was kept for other weights than the model has now: keep it again after the last training"
            )

    def remove(self, forget: SampleGradients) -> KeptFisher:
        """The Fisher without the records of ``forget`` (their gradients at the weights it was kept at).

        Raises NotPositiveDefiniteError where they cannot have been part of it.
        """
        products = forget.dot(self.vectors)
        return self.remove_matrix(products.T @ products, len(forget))

    def remove_matrix(self, inside: Tensor, count: int) -> KeptFisher:
        """The Fisher without ``count`` records whose part of ``m F`` is ``inside`` (r, r) float64, seen in the span of
        U. Directions in which less than nothing would be left, though not less than the damping makes up for, count
        as without curvature from then on. Raises NotPositiveDefiniteError as :meth:`remove`."""
        core = self.core - inside
        smallest = torch.linalg.eigvalsh(core).min().item()
        left = self.samples - count
        if left < 1 or smallest + left * self.damping <= 0:
            raise NotPositiveDefiniteError(
                f"the Fisher without these {count} records is not positive definite (smallest eigenvalue "
                f"{smallest + left * self.damping:.3g}): they were not part of the kept Fisher, or it was kept at "
                "other weights; keep it again from the data that the model was trained on, or give retain data"
            )
        return KeptFisher(self.vectors, core, self.damping, left, self.kind, self.weights)

    def _coordinates(self, v: dict[str, Tensor]) -> Tensor:
        return sum((u.flatten(1) @ v[name].to(u).flatten()).double() for name, u in self.vectors.items())

    def _lift(self, base: float, v: dict[str, Tensor], inner: Tensor) -> dict[str, Tensor]:
        return {
            name: base * v[name] + (inner.to(u) @ u.flatten(1)).view(u.shape[1:]) for name, u in self.vectors.items()
        }

    def solve(self, v: dict[str, Tensor]) -> dict[str, Tensor]:
        """``F^-1 v``, by parameter; v in the parameters' shapes."""
        return self.power(-1.0, v)

    def metric(self, gram: Tensor, products: Tensor) -> Tensor:
        """``J F^-1 J^T`` (n, n) for other gradients J: ``gram`` = J J^T (n, n), ``products`` = J U (n, r)."""
        s, q = torch.linalg.eigh(self.core)
        seen = products @ q
        share = s.clamp_min(0) / (s.clamp_min(0) + self.samples * self.damping)
        return (gram - (seen * share) @ seen.T) / self.damping

    def power(self, p: float, v: dict[str, Tensor], floor: float = 0.0) -> dict[str, Tensor]:
        """``F^p v``; eigenvalues of F below ``floor`` count as ``floor``."""
        s, q = torch.linalg.eigh(self.core)
        curved = (self.damping + s.clamp_min(0) / self.samples).clamp_min(floor) ** p
        base = max(self.damping, floor) ** p
        return self._lift(base, v, q @ ((curved - base) * (q.T @ self._coordinates(v))))

    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Writes one safetensors file, whole or not at all. Raises OutputError."""
        tensors = {f"vectors.{name}": tensor.contiguous() for name, tensor in self.vectors.items()}
        about = {"format": FORMAT, "damping": self.damping, "samples": self.samples, "kind": self.kind}
        about |= {"weights": self.weights, "parameters": list(self.vectors)}
        write_tensors(path, {**tensors, "core": self.core}, {"fastunlearn": json.dumps(about)}, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike, device: str | torch.device = "cpu") -> KeptFisher:
        """Reads what :meth:`save` wrote. Raises InvalidInputError for any other, or a damaged, file."""
        if not Path(path).is_file():
            raise InvalidInputError(f"kept_fisher: there is no file {path}; make one with `fastunlearn keep-fisher`")
        found = None
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                about = json.loads((file.metadata() or {}).get("fastunlearn", "{}"))
                if isinstance(about, dict) and about.get("format") == FORMAT:
                    vectors = {name: file.get_tensor(f"vectors.{name}") for name in about["parameters"]}
                    facts = [about[name] for name in ("damping", "samples", "kind", "weights")]
                    found = cls(vectors, file.get_tensor("core"), *facts)
                    found._check()
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise InvalidInputError(f"kept_fisher: {path} is damaged ({error}); keep the Fisher again") from error
        if found is None:
            raise InvalidInputError(f"kept_fisher: {path} is not a Fisher that fastunlearn kept")
        return found

    def _check(self) -> None:
        """Raises ValueError where the parts of a file do not go together."""
        check_damping(self.damping)
        if type(self.samples) is not int or self.samples < 1:
            raise ValueError(f"samples is {self.samples!r}")
        rank = self.core.shape[0]
        if self.core.shape != (rank, rank) or not bool(torch.isfinite(self.core).all()):
            raise ValueError("its core is no finite square matrix")
        if any(u.shape[0] != rank for u in self.vectors.values()):
            raise ValueError(f"its vectors are not {rank}, as its core wants")


def keep_fisher(
    model: nn.Module,
    samples: Sequence[Encoded],
    *,
    pad_token_id: int,
    rank: int = 256,
    damping: float = 1e-4,
    parameters: Sequence[str] | str | None = None,
    kind: str = "empirical",
    seed: int = 0,
    batch_size: int = 32,
    memory: int | str = "1GB",
    progress: Progress | None = None,
) -> KeptFisher:
    """The top ``rank`` eigenpairs of the Fisher of all ``samples`` (what the model was trained on).

    Takes rank x P numbers of memory and disk. With rank at least the number of samples nothing is lost.
    Raises InvalidInputError.
    """
    check_damping(damping)
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise InvalidInputError(f"rank={rank!r} must be an integer of at least 1")
    chosen = select_parameters(model, parameters)
    gradients = SampleGradients(
        model, samples, pad_token_id=pad_token_id, parameters=chosen, kind=kind, seed=seed, batch_size=batch_size,
        memory=memory, progress=progress, label="training records",
    )  # fmt: skip
    gram = gram_blocks([gradients], [(0, 0)], make_blocks(list(chosen), "model"))[0, 0][0]
    values, vectors = torch.linalg.eigh(gram)
    # Directions whose eigenvalue is rounding error of the largest are not directions of the data.
    top = [i for i in range(len(values) - 1, -1, -1) if values[i] > values[-1] * 1e-7][:rank]
    if not top:
        raise InvalidInputError("samples: all gradients are zero, so there is no curvature to keep")
    values, vectors = values[top], vectors[:, top]
    combined = gradients.combine((vectors / values.sqrt()).T)
    return KeptFisher(combined, torch.diag(values), float(damping), len(samples), kind, fingerprint(chosen))
