"""The space an operator acts on: all chosen parameters side by side, and the forms in which a vector may come.

A vector is flat ``(P,)``, a list or tuple of tensors, or a dict by name; k vectors at once have k as *last* axis:
``(P, k)``, or tensors ``(*shape, k)``. (These are curvlinops' conventions; dicts are ours.) Inside, k vectors are a
dict of tensors ``(k, *shape)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastunlearn.errors import InvalidInputError

__all__ = ["FORMS", "Form", "Space", "Vector", "Vectors"]

Vector = Tensor | list[Tensor] | tuple[Tensor, ...] | dict[str, Tensor]
FORMS = ("flat", "list", "tuple", "dict")


class Form(NamedTuple):
    """How a vector came: ``kind`` is one of FORMS; ``single``: a vector, without the axis of several."""

    kind: str
    single: bool


class Vectors(dict[str, Tensor]):
    """k vectors by parameter name whose tensors (k, *shape) are views of one tensor ``flat`` (k, P), so that a flat
    answer takes no copy."""

    def __init__(self, flat: Tensor, shapes: Mapping[str, torch.Size]) -> None:
        parts = flat.split([shape.numel() for shape in shapes.values()], 1)
        super().__init__((n, part.view(len(flat), *s)) for (n, s), part in zip(shapes.items(), parts, strict=True))
        self.flat, self._shapes = flat, shapes

    def rows(self, some: slice) -> Vectors:
        """Some of the k vectors: views."""
        return Vectors(self.flat[some], self._shapes)


class Space:
    """Names, shapes and order of the parameters. ``size``: P. ``dtype``: that of sums, float64 if a parameter is,
    else float32, whatever the weights' own dtype. ``device``: that of the parameters."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.shapes = {name: p.shape for name, p in parameters.items()}
        self.dtypes = {name: p.dtype for name, p in parameters.items()}
        self.size = sum(shape.numel() for shape in self.shapes.values())
        self.dtype = torch.float64 if torch.float64 in self.dtypes.values() else torch.float32
        self.device = next(iter(parameters.values())).device

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and (self.shapes, self.dtype, self.device, list(self.shapes)) == (
            other.shapes, other.dtype, other.device, list(other.shapes)
        )  # fmt: skip

    __hash__ = None  # type: ignore[assignment]

    def zeros(self, k: int) -> Vectors:
        """k zero vectors, in ``dtype``."""
        return Vectors(torch.zeros(k, self.size, dtype=self.dtype, device=self.device), self.shapes)

    def read(self, v: Vector, name: str = "v", *, widen: bool = True) -> tuple[dict[str, Tensor], Form]:
        """A vector or several as a dict of (k, *shape), in ``dtype`` or, unless ``widen``, in its own, and the form in
        which it came.

        Raises InvalidInputError for a wrong type, length, shape, dtype or device; ``name`` is what it is called there.
        """
        if isinstance(v, Tensor):
            return self._read_flat(v, name, widen)
        if isinstance(v, Mapping):
            missing, unknown = [n for n in self.shapes if n not in v], [n for n in v if n not in self.shapes]
            if missing or unknown:
                what = f"lacks {missing[0]!r}" if missing else f"has {unknown[0]!r}, which is no chosen parameter"
                raise InvalidInputError(f"{name} {what}: give one tensor for each of the {len(self.shapes)} parameters")
            return self._read_tensors([v[n] for n in self.shapes], "dict", name, widen)
        if isinstance(v, list | tuple):
            if len(v) != len(self.shapes):
                raise InvalidInputError(f"{name} has {len(v)} tensors; the operator has {len(self.shapes)} parameters")
            return self._read_tensors(list(v), "list" if isinstance(v, list) else "tuple", name, widen)
        raise InvalidInputError(f"{name} is a {type(v).__name__}: give a tensor, a list or tuple, or a dict of tensors")

    def _check(self, tensor: object, dtype: torch.dtype, name: str) -> None:
        if not isinstance(tensor, Tensor):
            raise InvalidInputError(f"{name} is a {type(tensor).__name__}, not a tensor")
        if tensor.dtype not in (self.dtype, dtype):
            raise InvalidInputError(f"{name} has dtype {tensor.dtype}: use {name}.to({self.dtype})")
        if tensor.device != self.device:
            raise InvalidInputError(f"{name} is on {tensor.device}, the parameters are on {self.device}: move it there")

    def _read_flat(self, v: Tensor, name: str, widen: bool) -> tuple[dict[str, Tensor], Form]:
        if v.dim() not in (1, 2) or v.shape[0] != self.size or (v.dim() == 2 and v.shape[1] == 0):
            count = f"{len(self.shapes)} parameters"
            raise InvalidInputError(
                f"{name} has shape {tuple(v.shape)}; it must be ({self.size},), or ({self.size}, k): {count}, flat"
            )
        self._check(v, next(iter(self.dtypes.values())), name)
        single = v.dim() == 1
        rows = (v[:, None] if single else v).detach()
        rows = rows.to(self.dtype) if widen else rows
        sizes = [shape.numel() for shape in self.shapes.values()]
        parts = rows.split(sizes)
        found = {n: part.T.reshape(-1, *s) for (n, s), part in zip(self.shapes.items(), parts, strict=True)}
        return found, Form("flat", single)

    def _read_tensors(self, parts: list, kind: str, name: str, widen: bool) -> tuple[dict[str, Tensor], Form]:
        def label(i: int, n: str) -> str:
            return f"{name}[{n!r}]" if kind == "dict" else f"{name}[{i}] ({n})"

        for i, (n, part) in enumerate(zip(self.shapes, parts, strict=True)):
            self._check(part, self.dtypes[n], label(i, n))
        # A scalar parameter with k vectors has shape (k,); so the first tensor decides for all.
        first = next(iter(self.shapes.values()))
        single = parts[0].shape == first
        k = 1 if single or not parts[0].dim() else parts[0].shape[-1]
        for i, ((n, shape), part) in enumerate(zip(self.shapes.items(), parts, strict=True)):
            wanted = shape if single else (*shape, k)
            if tuple(part.shape) != tuple(wanted) or k == 0:
                raise InvalidInputError(
                    f"{label(i, n)} has shape {tuple(part.shape)}; it must be {tuple(shape)}, or for k vectors at once "
                    f"{(*shape, 'k')} with the same k everywhere"
                )
        read = [part.detach().to(self.dtype) if widen else part.detach() for part in parts]
        moved = [part[None] if single else part.movedim(-1, 0) for part in read]
        return dict(zip(self.shapes, moved, strict=True)), Form(kind, single)

    def write(self, vectors: Mapping[str, Tensor], form: Form) -> Vector:
        """k vectors (k, *shape) in the form in which a vector came."""
        if form.kind == "flat":
            if isinstance(vectors, Vectors):
                flat = vectors.flat
            else:
                flat = torch.cat([vectors[n].reshape(vectors[n].shape[0], -1) for n in self.shapes], 1)
            return flat[0] if form.single else flat.T
        parts = {n: vectors[n][0] if form.single else vectors[n].movedim(0, -1) for n in self.shapes}
        return parts if form.kind == "dict" else (list if form.kind == "list" else tuple)(parts.values())
