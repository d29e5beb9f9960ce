"""Norms, gated MLPs and rotary embeddings, as a share of the rate of a copy, beside PyTorch's jvp of the same function.

Bytes are those that must be moved: every input read once, every result written once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import torch

from bench.device.measure import Bench
from fastunlearn.ops import gated_mlp, norm, rope


def pointwise(bench: Bench) -> list:
    """``passes``: tensors of the shape of ``like`` that are read or written."""
    n, width, inner = (12, 32, 48) if bench.toy else (8192, 4096, 14336)
    wide, high, long = (n, width), (n, inner), (1, 4 if bench.toy else 32, n, 16 if bench.toy else 128)

    def draw(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
        return [bench.draw(*shape) for shape in shapes]

    def norm_forward():
        x, xt, w, wt = draw(wide, (1, *wide), (width,), (1, width))
        return (functools.partial(norm.rms_norm_dual_forward, x, xt, w, wt, 1e-6),
                lambda: torch.func.jvp(_rms, (x, w), (xt[0], wt[0])))  # fmt: skip

    def norm_backward():
        values = draw(wide, (1, *wide), (width,), (1, width), wide, (1, *wide))
        return functools.partial(norm.rms_norm_dual_backward, *values, 1e-6), None

    def gated_forward():
        gate, up, gate_t, up_t = draw(high, high, (1, *high), (1, *high))
        return (functools.partial(gated_mlp.dual_forward, gate, up, gate_t, up_t, "silu"),
                lambda: torch.func.jvp(_gated, (gate, up), (gate_t[0], up_t[0])))  # fmt: skip

    def gated_backward():
        values = draw(high, high, (1, *high), (1, *high), high, (1, *high))
        return functools.partial(gated_mlp.dual_backward, *values, "silu"), None

    def rotary():
        heads = bench.draw(*long)
        table = [torch.randn(n, long[3], device=bench.device) for _ in range(2)]
        return functools.partial(rope.apply, heads, *table), lambda: _rotated(heads, *table)

    def fill(passes: int, make: Callable, case: dict) -> Iterator[None]:
        moved = passes * math.prod(case["shape"]) * bench.half.itemsize
        for name, run in zip(("fastunlearn", "torch"), make(), strict=True):
            if run is not None:
                case["ways"][name] = bench.measure(run)
                bench.share_of_copy_rate(case["ways"][name], moved)
                yield

    return [
        ({"function": name, "shape": list(like), "ways": {}}, functools.partial(fill, passes, make))
        for name, passes, like, make in (
            ("RMS norm, dual forward", 4, wide, norm_forward), ("RMS norm, dual backward", 6, wide, norm_backward),
            ("gated SiLU, dual forward", 6, high, gated_forward),
            ("gated SiLU, dual backward", 10, high, gated_backward), ("rotary", 2, long, rotary),
        )
    ]  # fmt: skip


def _rms(x, w):
    return torch.nn.functional.rms_norm(x, x.shape[-1:], w, 1e-6)


def _gated(gate, up):
    return torch.nn.functional.silu(gate) * up


def _rotated(x, cos, sin):
    half = x.shape[-1] // 2
    return (x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin).to(x.dtype)
