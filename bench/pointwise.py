"""Norm, gated activation and RoPE with one tangent: our kernels against eager PyTorch's double backward.

    python -m bench.pointwise        writes bench/results/cpu-pointwise.json

Each case is a whole dual pass of the op (y, yt, gx, hx and parameter gradients). Eager PyTorch gets the same by one
gradient with create_graph and a second backward; a copy of memory of the same size shows what the machine allows.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
import torch.nn.functional as F

from fastunlearn.microbench.harness import Way, compare, write_json
from fastunlearn.ops import gated_mlp, norm, rope

GATE = 2e-5
BASELINE = "torch: double backward"
CASES = [
    {"op": "gated_mlp silu", "rows": 512, "channels": 1376},
    {"op": "gated_mlp silu", "rows": 4096, "channels": 1376},
    {"op": "gated_mlp gelu", "rows": 512, "channels": 1376},
    {"op": "rms_norm", "rows": 512, "channels": 512},
    {"op": "rms_norm", "rows": 4096, "channels": 512},
    {"op": "layer_norm", "rows": 512, "channels": 512},
    {"op": "rope", "rows": 4096, "channels": 64},
]


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def flat(parts) -> torch.Tensor:
    return torch.cat([part.detach().flatten() for part in parts])


def double_backward(function, primals, tangents, g, h) -> torch.Tensor:
    """gx and hx of <g, f(x)>: the gradient, and the gradient of its product with the tangents, plus h's."""
    leaves = [p.detach().requires_grad_() for p in primals]
    y = function(*leaves)
    first = torch.autograd.grad(y, leaves, g, create_graph=True)
    along = sum((one * t[0]).sum() for one, t in zip(first, tangents, strict=True))
    second = torch.autograd.grad(along + (y * h[0]).sum(), leaves)
    return flat([first[0], *second])


def gated(kind, a, b, at, bt, g, h) -> torch.Tensor:
    gated_mlp.dual_forward(a, b, at, bt, kind)
    g_gate, _, h_gate, h_up = gated_mlp.dual_backward(a, b, at, bt, g, h, kind)
    return flat([g_gate, h_gate, h_up])


def rms(x, w, xt, wt, g, h) -> torch.Tensor:
    norm.rms_norm_dual_forward(x, xt, w, wt, 1e-5)
    return flat(norm.rms_norm_dual_backward(x, xt, w, wt, g, h, 1e-5))


def layer(x, w, b, xt, wt, bt, g, h) -> torch.Tensor:
    norm.layer_norm_dual_forward(x, xt, w, wt, b, bt, 1e-5)
    return flat(norm.layer_norm_dual_backward(x, xt, w, wt, g, h, 1e-5))


def eager_rms(x, w):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * w


def eager_rope(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def problem(case: dict):
    """(ours, eager function, primals, tangents, g, h) of one case."""
    n, d, op = case["rows"], case["channels"], case["op"]
    x, other, xt, other_t = draw(n, d, seed=0), draw(n, d, seed=1), draw(1, n, d, seed=2), draw(1, n, d, seed=3)
    g, h = draw(n, d, seed=4), draw(1, n, d, seed=5)
    w, b, wt, bt = draw(d, seed=6), draw(d, seed=7), draw(1, d, seed=8), draw(1, d, seed=9)
    if op.startswith("gated_mlp"):
        kind = op.split()[1]
        act = {"silu": F.silu, "gelu": F.gelu}[kind]
        run = functools.partial(gated, kind, x, other, xt, other_t, g, h)
        return run, lambda a, u: act(a) * u, (x, other), (xt, other_t), g, h
    if op == "rms_norm":
        return functools.partial(rms, x, w, xt, wt, g, h), eager_rms, (x, w), (xt, wt), g, h
    if op == "layer_norm":
        run = functools.partial(layer, x, w, b, xt, wt, bt, g, h)
        return run, lambda x, w, b: F.layer_norm(x, (d,), w, b, 1e-5), (x, w, b), (xt, wt, bt), g, h
    angle = draw(n, d // 2, seed=6).repeat(1, 2)
    cos, sin = angle.cos(), angle.sin()

    def turn():
        rope.apply(x, cos, sin), rope.apply(xt, cos, sin)
        return flat([rope.apply(g, cos, sin, inverse=True), rope.apply(h, cos, sin, inverse=True)])

    return turn, lambda v: eager_rope(v, cos.to(v.dtype), sin.to(v.dtype)), (x,), (xt,), g, h


def measure(case: dict) -> dict:
    run, function, primals, tangents, g, h = problem(case)
    wide = [[t.double() for t in group] for group in (primals, tangents, (g, h))]
    truth = double_backward(function, wide[0], wide[1], *wide[2])
    ways = [
        Way("fastunlearn", run),
        Way(BASELINE, lambda: double_backward(function, primals, tangents, g, h)),
    ]
    return case | {"ways": compare(ways, truth, GATE, BASELINE, rounds=15)}


def main() -> None:
    cases = [measure(case) for case in CASES]
    for case in cases:
        ours, eager = case["ways"]["fastunlearn"], case["ways"][BASELINE]
        times = f"{ours['seconds'] * 1e3:.2f} ms against {eager['seconds'] * 1e3:.2f} ms"
        print(f"{case['op']:16} {case['rows']:5} x {case['channels']:5}: {times}, error {ours['error']:.1e}")
    settings = {"dtype": "float32", "tangents": 1, "gate": GATE}
    path = Path(__file__).parent / "results" / "cpu-pointwise.json"
    write_json(path, "pointwise ops with one tangent", settings, cases)


if __name__ == "__main__":
    main()
