"""Which way to a linear layer's Gram is cheaper: the ghost way or formed gradients.

Multiply-adds, with N tokens in m samples (sides 1 and 2; a symmetric product is half, less the rounding up):

    ghost    N1 N2 (d_in + d_out)
    formed   (N1 + N2) d_in d_out  +  m1 m2 d_in d_out

Two constants turn the counts into times. They are ratios of measured speeds (bench/ghost_gram.py), by
device type: how many formed-way multiply-adds take as long as one ghost-way multiply-add.
"""

from __future__ import annotations

#: (forming, multiplying) speed relative to the ghost kernel's; above 1 means faster than the ghost kernel.
SPEEDS = {"cpu": (0.3, 0.37), "cuda": (1.0, 1.0)}


def ghost_cost(n1: int, n2: int, d_in: int, d_out: int, symmetric: bool) -> float:
    """Multiply-adds of the ghost way."""
    return n1 * n2 * (d_in + d_out) * (0.5 if symmetric else 1.0)


def formed_cost(n1: int, n2: int, m1: int, m2: int, d_in: int, d_out: int, symmetric: bool, device: str) -> float:
    """Multiply-adds of the formed way, each weighted to a ghost multiply-add's time on ``device``."""
    forming, multiplying = SPEEDS.get(device, (1.0, 1.0))
    weights = d_in * d_out
    tokens = n1 if symmetric else n1 + n2
    pairs = m1 * m2 * (0.5 if symmetric else 1.0)
    return weights * (tokens / forming + pairs / multiplying)


def choose_route(n1: int, n2: int, m1: int, m2: int, d_in: int, d_out: int, symmetric: bool, device: str) -> str:
    """ "ghost" or "formed", whichever the model says is faster."""
    ghost = ghost_cost(n1, n2, d_in, d_out, symmetric)
    return "ghost" if ghost <= formed_cost(n1, n2, m1, m2, d_in, d_out, symmetric, device) else "formed"
