"""Binding of the C++ kernels of ``act(gate) * up`` (csrc/cpu/gated_mlp.cpp); without ``up``, of ``act(gate)``."""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.ops import _memory as fresh
from fastunlearn.ops._cpu_streams import DTYPES, rows, stream
from fastunlearn.ops._dispatch import cpu_isa, extension

from .reference import KINDS


def _view(tensors: list[Tensor | None], leads: list[int]) -> tuple[tuple[int, int], list[Tensor | None]]:
    """The tensors as rows; as one single row where all of them are contiguous."""
    if all(t is None or t.is_contiguous() for t in tensors):
        flat = [
            None if t is None else t.detach().resolve_neg().view(*t.shape[:lead], 1, -1)
            for t, lead in zip(tensors, leads, strict=True)
        ]
    else:
        flat = [rows(t, lead) for t, lead in zip(tensors, leads, strict=True)]
    return (flat[0].shape[-2], flat[0].shape[-1]), flat


def dual_forward(
    gate: Tensor,
    up: Tensor | None,
    gate_t: Tensor | None,
    up_t: Tensor | None,
    kind: str,
    isa: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """(y, yt); ``isa`` names the instruction set (None: the best that is live)."""
    k = next((len(t) for t in (gate_t, up_t) if t is not None), 0)
    y = torch.empty(gate.shape, dtype=gate.dtype)
    yt = fresh.empty((k, *gate.shape), gate.dtype) if k else None
    if gate.numel():
        sizes, views = _view([gate, up, gate_t, up_t], [0, 0, 1, 1])
        results = (y.view(*sizes), yt.view(k, *sizes) if k else None)
        extension("cpu").gated_forward(
            isa or cpu_isa(), DTYPES[gate.dtype], KINDS.index(kind), (*sizes, k), tuple(map(stream, views)),
            *map(stream, results), torch.get_num_threads(),
        )  # fmt: skip
    return y, yt


def dual_backward(
    gate: Tensor,
    up: Tensor | None,
    gate_t: Tensor | None,
    up_t: Tensor | None,
    g: Tensor | None,
    h: Tensor | None,
    kind: str,
    isa: str | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """(g_gate, g_up, h_gate, h_up), None where zero; g_up and h_up are None without ``up``."""
    k = next((len(t) for t in (gate_t, up_t, h) if t is not None), 0)
    gated = up is not None
    bent = g is not None and (gate_t is not None or up_t is not None)

    def empty(wanted: bool, *lead: int) -> Tensor | None:
        return fresh.empty((*lead, *gate.shape), gate.dtype) if wanted else None

    g_gate, g_up = empty(g is not None), empty(g is not None and gated)
    h_gate = empty(h is not None or bent, k)
    h_up = empty(gated and (h is not None or (g is not None and gate_t is not None)), k)
    if gate.numel():
        sizes, views = _view([gate, up, gate_t, up_t, g, h], [0, 0, 1, 1, 0, 1])
        first = [None if t is None else t.view(*sizes) for t in (g_gate, g_up)]
        second = [None if t is None else t.view(k, *sizes) for t in (h_gate, h_up)]
        extension("cpu").gated_backward(
            isa or cpu_isa(), DTYPES[gate.dtype], KINDS.index(kind), (*sizes, k), tuple(map(stream, views[:4])),
            *map(stream, [*views[4:], *first, *second]), torch.get_num_threads(),
        )  # fmt: skip
    return g_gate, g_up, h_gate, h_up
