"""Norms, gated MLPs and rotary embeddings, as a share of the rate of a copy, beside PyTorch's jvp of the same function.

Bytes are those that must be moved: every input read once, every result written once.
"""

from __future__ import annotations

import functools

import torch

from bench.device.measure import Bench
from fastunlearn.ops import gated_mlp, norm, rope


def pointwise(bench: Bench) -> list[dict]:
    n, width, inner = (12, 32, 48) if bench.toy else (8192, 4096, 14336)
    x, xt, g, h = bench.draw(n, width), bench.draw(1, n, width), bench.draw(n, width), bench.draw(1, n, width)
    w, wt = bench.draw(width), bench.draw(1, width)
    gate, up, g2 = (bench.draw(n, inner) for _ in range(3))
    gate_t, up_t, h2 = (bench.draw(1, n, inner) for _ in range(3))
    heads = bench.draw(1, 4 if bench.toy else 32, n, 16 if bench.toy else 128)
    table = [torch.randn(n, heads.shape[3], device=bench.device) for _ in range(2)]
    return [
        _case(bench, "RMS norm, dual forward", 4, x, functools.partial(norm.rms_norm_dual_forward, x, xt, w, wt, 1e-6),
              lambda: torch.func.jvp(_rms, (x, w), (xt[0], wt[0]))),
        _case(bench, "RMS norm, dual backward", 6, x,
              functools.partial(norm.rms_norm_dual_backward, x, xt, w, wt, g, h, 1e-6), None),
        _case(bench, "gated SiLU, dual forward", 6, gate,
              functools.partial(gated_mlp.dual_forward, gate, up, gate_t, up_t, "silu"),
              lambda: torch.func.jvp(_gated, (gate, up), (gate_t[0], up_t[0]))),
        _case(bench, "gated SiLU, dual backward", 10, gate,
              functools.partial(gated_mlp.dual_backward, gate, up, gate_t, up_t, g2, h2, "silu"), None),
        _case(bench, "rotary", 2, heads, functools.partial(rope.apply, heads, *table), lambda: _rotated(heads, *table)),
    ]  # fmt: skip


def _case(bench: Bench, name: str, passes: int, like: torch.Tensor, ours, torchs) -> dict:
    """``passes``: tensors of the size of ``like`` that are read or written."""
    ways = {"fastunlearn": bench.measure(ours)}
    if torchs is not None:
        ways["torch"] = bench.measure(torchs)
    for result in ways.values():
        bench.share_of_copy_rate(result, passes * like.numel() * like.element_size())
    return {"function": name, "shape": list(like.shape), "ways": ways}


def _rms(x, w):
    return torch.nn.functional.rms_norm(x, x.shape[-1:], w, 1e-6)


def _gated(gate, up):
    return torch.nn.functional.silu(gate) * up


def _rotated(x, cos, sin):
    half = x.shape[-1] // 2
    return (x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin).to(x.dtype)
