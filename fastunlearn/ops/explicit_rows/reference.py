"""``G v`` and ``G^T c`` for an explicit G, in plain PyTorch: this file defines the right answer."""

from __future__ import annotations

import torch
from torch import Tensor

COLUMNS = 1 << 20  # widened at a time


def _blocks(rows: Tensor, scales: Tensor | None, group: int, dtype: torch.dtype):
    """Slices of columns and G there, in ``dtype``."""
    step = COLUMNS // group * group if scales is not None else COLUMNS
    for start in range(0, rows.shape[1], step):
        part = rows[:, start : start + step].to(dtype)
        if scales is not None:
            factors = scales[:, start // group : (start + step - 1) // group + 1].to(dtype)
            part = part * factors.repeat_interleave(group, 1)[:, : part.shape[1]]
        yield slice(start, start + part.shape[1]), part


def matvec(rows: Tensor, scales: Tensor | None, group: int, v: Tensor) -> Tensor:
    out = v.new_zeros(rows.shape[0])
    for where, part in _blocks(rows, scales, group, v.dtype):
        out += part @ v[where]
    return out


def rmatvec(rows: Tensor, scales: Tensor | None, group: int, coefficients: Tensor, out: Tensor) -> Tensor:
    for where, part in _blocks(rows, scales, group, coefficients.dtype):
        out[where] += coefficients @ part
    return out
