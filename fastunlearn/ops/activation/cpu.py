"""The CPU kernels of a plain activation: those of ``act(gate) * up`` without ``up``."""

from __future__ import annotations

from torch import Tensor

from . import _cpu_gated as gated


def dual_forward(x: Tensor, xt: Tensor | None, kind: str, isa: str | None = None) -> tuple[Tensor, Tensor | None]:
    """(y, yt); ``isa`` names the instruction set (None: the best that is live)."""
    return gated.dual_forward(x, None, xt, None, kind, isa)


def dual_backward(
    x: Tensor, xt: Tensor | None, g: Tensor | None, h: Tensor | None, kind: str, isa: str | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """(gx, hx), None where zero."""
    g_gate, _, h_gate, _ = gated.dual_backward(x, None, xt, None, g, h, kind, isa)
    return g_gate, h_gate
