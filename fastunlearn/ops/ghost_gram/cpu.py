"""Binding of the C++ ghost Gram kernel (csrc/cpu/ghost_gram.cpp)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.ops._dispatch import cpu_isa, extension

from ._arguments import Side

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


def _rows(value: Tensor) -> Tensor:
    """``value`` itself where its rows are contiguous (any row stride), else a contiguous copy; the sign in memory."""
    value = value.resolve_neg()
    return value if value.stride(1) == 1 and value.stride(0) >= value.shape[1] else value.contiguous()


def _pack(side: Side) -> tuple[tuple, tuple]:
    """The kernel's view of one side, and the tensors that must stay alive while it runs."""
    x, g = _rows(side.x), _rows(side.g)
    view = (x.data_ptr(), x.stride(0), g.data_ptr(), g.stride(0), side.offsets.data_ptr(), side.samples, side.tokens)
    return view, (x, g)


def ghost_gram(first: Side, second: Side | None, bias: bool, out: Tensor, isa: str | None = None) -> Tensor:
    """K (m1, m2) into ``out``; ``isa`` names the instruction set (None: the best that is live)."""
    target = out if out.stride(1) == 1 else torch.empty_like(out, memory_format=torch.contiguous_format)
    one, keep_one = _pack(first)
    two, keep_two = _pack(second) if second is not None else (one, ())
    extension("cpu").ghost_gram(
        isa or cpu_isa(), DTYPES[first.x.dtype], first.x.shape[1], first.g.shape[1], one, two,
        second is None, bias, target.data_ptr(), target.stride(0), torch.get_num_threads(),
    )  # fmt: skip
    del keep_one, keep_two
    return out if target is out else out.copy_(target)
