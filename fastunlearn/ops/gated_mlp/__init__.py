"""The gated activation of SwiGLU, GEGLU and their kin, ``act(gate) * up``, with its dual (README.md)."""

from __future__ import annotations

from torch import Tensor

from fastunlearn.ops._cpu_streams import choose
from fastunlearn.ops._dispatch import backend_module
from fastunlearn.ops._dual_arguments import check_float, check_same, check_tangents
from fastunlearn.ops.activation import KINDS as KINDS
from fastunlearn.ops.activation import check_kind

__all__ = ["dual_backward", "dual_forward"]

BACKENDS = ("reference", "cpu", "triton")


def dual_forward(
    gate: Tensor,
    up: Tensor,
    gate_t: Tensor | None,
    up_t: Tensor | None,
    kind: str,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """``y = f(gate) up`` and ``yt = f'(gate) gate_t up + f(gate) up_t``.

    gate, up: one shape, any; gate_t, up_t (K, *shape), None for zero (both None: yt is None). dtypes and kinds as in
    :func:`fastunlearn.ops.activation.dual_forward`. The halves of one projection may be passed as views.
    Returns contiguous tensors. Raises InvalidInputError and BackendUnavailableError.
    """
    _check(gate, up, kind)
    check_tangents(gate, "gate", {"gate_t": (gate_t, gate.shape), "up_t": (up_t, gate.shape)})
    chosen = choose(backend, gate, BACKENDS)
    return backend_module(__package__, chosen).dual_forward(gate, up, gate_t, up_t, kind)


def dual_backward(
    gate: Tensor,
    up: Tensor,
    gate_t: Tensor | None,
    up_t: Tensor | None,
    g: Tensor | None,
    h: Tensor | None,
    kind: str,
    *,
    backend: str | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """``(g_gate, g_up, h_gate, h_up)``, the first two of gate's shape, the others (K, *shape).

    g_gate = f' up g, g_up = f g, h_gate = f' (up h + up_t g) + f'' up gate_t g, h_up = f h + f' gate_t g.
    gate_t, up_t, g, h may be None for zero; a result is None where it is zero for that reason.
    Raises as :func:`dual_forward`.
    """
    _check(gate, up, kind)
    check_same(g, "g", gate, "gate", gate.shape)
    shape = gate.shape
    check_tangents(gate, "gate", {"gate_t": (gate_t, shape), "up_t": (up_t, shape), "h": (h, shape)})
    chosen = choose(backend, gate, BACKENDS)
    return backend_module(__package__, chosen).dual_backward(gate, up, gate_t, up_t, g, h, kind)


def _check(gate: Tensor, up: Tensor, kind: str) -> None:
    check_kind(kind)
    check_float(gate, "gate")
    check_same(up, "up", gate, "gate", gate.shape)
