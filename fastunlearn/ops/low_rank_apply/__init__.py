"""Products with per-sample gradients that are stored block by block (README.md)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops._dispatch import backend_module, choose_backend

from . import cpu, reference

__all__ = ["combine", "dot", "quantise"]

BACKENDS = ("reference", "cpu", "cuda")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.int8)


def dot(g: Tensor, v: Tensor, scales: Tensor | None = None, *, backend: str | None = None) -> Tensor:
    """``sum_p G[b, i, p] v[j, b, p]`` as (k, blocks, m), in v's dtype.

    g (blocks, m, B) float32, bfloat16 or int8, contiguous (float64: reference only). v (k, blocks, B) float32
    (float64 for a float64 g). ``scales`` (blocks, m) float32: a factor for each row, which int8 must have. Raises
    InvalidInputError and BackendUnavailableError.
    """
    return _apply("low_rank_dot", g, v, scales, 2, 1, backend)


def combine(g: Tensor, w: Tensor, scales: Tensor | None = None, *, backend: str | None = None) -> Tensor:
    """``sum_i w[j, b, i] G[b, i, p]`` as (k, blocks, B), for w (k, blocks, m). Otherwise as :func:`dot`."""
    return _apply("low_rank_combine", g, w, scales, 1, 2, backend)


def quantise(g: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (blocks, m, B) as int8, rounded to the nearest, and their scales (blocks, m) float32: max|g| / 127."""
    g = g.float()  # steps of a half type's smallest numbers are no numbers of it
    scales = g.abs().amax(-1) / 127
    safe = torch.where(scales > 0, scales, 1)
    return (g / safe[..., None]).round().clamp(-127, 127).to(torch.int8), scales


def _apply(name, g, x, scales, read_axis: int, given_axis: int, backend: str | None) -> Tensor:
    if not isinstance(g, Tensor) or g.dim() != 3 or g.dtype not in DTYPES or not g.is_contiguous():
        raise InvalidInputError("g must be a contiguous (blocks, m, B) tensor of float64, float32, bfloat16 or int8")
    wanted = torch.float64 if g.dtype == torch.float64 else torch.float32
    reads, gives = g.shape[read_axis], g.shape[given_axis]
    if x.dim() != 3 or x.shape[0] < 1 or x.shape[1:] != (g.shape[0], reads) or x.dtype != wanted:
        raise InvalidInputError(
            f"the vectors are {tuple(x.shape)} {x.dtype}; they must be (k, {g.shape[0]}, {reads}) {wanted}"
        )
    if (g.dtype == torch.int8) and scales is None:
        raise InvalidInputError("scales: int8 rows need one factor each; quantise() gives them")
    if scales is not None and (scales.shape != g.shape[:2] or scales.dtype != torch.float32):
        shape = tuple(scales.shape)
        raise InvalidInputError(f"scales is {shape} {scales.dtype}; it must be {tuple(g.shape[:2])} float32")
    if x.device != g.device or (scales is not None and scales.device != g.device):
        raise InvalidInputError("g, scales and the vectors must be on one device")
    offered = BACKENDS if g.dtype in cpu.STORED else ("reference",)
    chosen = choose_backend(backend, g.device, offered)
    if chosen != "reference":
        kernel = backend_module(__package__, chosen)
        return kernel.apply(name, g, None if scales is None else scales.contiguous(), x, gives)
    return (reference.dot if name == "low_rank_dot" else reference.combine)(g, scales, x)
