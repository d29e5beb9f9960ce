"""``act(gate) * up`` and its dual in plain PyTorch. This file defines truth."""

from __future__ import annotations

from torch import Tensor

from fastunlearn.ops._dual_arguments import accumulator
from fastunlearn.ops.activation.reference import derivatives


def _sum(*terms: Tensor | None) -> Tensor | None:
    given = [term for term in terms if term is not None]
    return sum(given[1:], given[0]) if given else None


def _product(*factors: Tensor | None) -> Tensor | None:
    """The product, None (zero) where a factor is None."""
    if any(factor is None for factor in factors):
        return None
    result = factors[0]
    for factor in factors[1:]:
        result = result * factor
    return result


def _narrow(value: Tensor | None, like: Tensor) -> Tensor | None:
    return None if value is None else value.to(like.dtype).contiguous()


def dual_forward(
    gate: Tensor, up: Tensor, gate_t: Tensor | None, up_t: Tensor | None, kind: str
) -> tuple[Tensor, Tensor | None]:
    """y = f(gate) up, yt = f'(gate) gate_t up + f(gate) up_t."""
    wide = accumulator(gate.dtype)
    f, f1, _ = derivatives(gate.to(wide), kind)
    u = up.to(wide)
    yt = _sum(_product(f1, u, gate_t), _product(f, up_t))
    return _narrow(f * u, gate), _narrow(yt, gate)


def dual_backward(
    gate: Tensor,
    up: Tensor,
    gate_t: Tensor | None,
    up_t: Tensor | None,
    g: Tensor | None,
    h: Tensor | None,
    kind: str,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """(g_gate, g_up, h_gate, h_up); what is None counts as zero, and a result of None is zero."""
    wide = accumulator(gate.dtype)
    f, f1, f2 = derivatives(gate.to(wide), kind)
    u = up.to(wide)
    g_gate, g_up = _product(f1, u, g), _product(f, g)
    h_gate = _sum(_product(f1, u, h), _product(f1, g, up_t), _product(f2, u, g, gate_t))
    h_up = _sum(_product(f, h), _product(f1, g, gate_t))
    return _narrow(g_gate, gate), _narrow(g_up, gate), _narrow(h_gate, gate), _narrow(h_up, gate)
