"""Which way to a linear layer's Gram is cheaper: the ghost way or formed gradients.

Multiply-adds, with N tokens in m samples (sides 1 and 2; a symmetric product is half, less the rounding up):

    ghost    N1 N2 (d_in + d_out)
    formed   (N1 + N2) d_in d_out  +  m1 m2 d_in d_out

The symmetric formed product goes by panels of samples, so with few samples it is more than half. The formed gradients
themselves, (m1 + m2) d_in d_out numbers, are written and read: memory, not arithmetic. Three constants turn the counts
into times. They are ratios of measured speeds (bench/lowrank.py switch), by device type.
"""

from __future__ import annotations

from .formed import PANEL

#: Forming and multiplying speed relative to the ghost kernel's (above 1: faster), and the ghost multiply-adds that
#: take as long as writing and reading one formed number. Those of "cuda" are predictions, not measured: library
#: products a third faster than the ghost kernel, and four bytes at the speed of an H200's memory.
SPEEDS = {"cpu": (0.45, 0.75, 80.0), "cuda": (1.3, 1.3, 220.0)}


def ghost_cost(n1: int, n2: int, d_in: int, d_out: int, symmetric: bool) -> float:
    """Multiply-adds of the ghost way."""
    return n1 * n2 * (d_in + d_out) * (0.5 if symmetric else 1.0)


def formed_cost(n1: int, n2: int, m1: int, m2: int, d_in: int, d_out: int, symmetric: bool, device: str) -> float:
    """Multiply-adds of the formed way, each weighted to a ghost multiply-add's time on ``device``."""
    forming, multiplying, memory = SPEEDS.get(device, (1.0, 1.0, 0.0))
    weights = d_in * d_out
    if symmetric:
        tokens, rows, pairs = n1, m1, m1 * min(m1, (m1 + PANEL) / 2)
    else:
        tokens, rows, pairs = n1 + n2, m1 + m2, m1 * m2
    return weights * (tokens / forming + pairs / multiplying + memory * rows)


def choose_route(n1: int, n2: int, m1: int, m2: int, d_in: int, d_out: int, symmetric: bool, device: str) -> str:
    """ "ghost" or "formed", whichever the model says is faster."""
    ghost = ghost_cost(n1, n2, d_in, d_out, symmetric)
    return "ghost" if ghost <= formed_cost(n1, n2, m1, m2, d_in, d_out, symmetric, device) else "formed"
