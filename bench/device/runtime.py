"""Kernels as programs use them: recorded in a CUDA graph, on a stream of the caller's, inside torch.compile.

Each job is run in such a way, then its inputs are overwritten: what would not read them where and when it should gives
the answer for the old ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import fastunlearn.ops.library  # noqa: F401 (registers torch.ops.fastunlearn)
from bench.device.measure import HALF
from bench.device.record import Record
from fastunlearn.ops import explicit_rows, small_cholesky
from fastunlearn.ops.ghost_gram import ghost_gram
from fastunlearn.ops.weighted_gradient import weighted_gradient

__all__ = ["check_runtime"]

Inputs = list[Tensor]
OPS = torch.ops.fastunlearn


def _attention(q, k, v, qt, kt, vt, g, h):
    o, ot, *stats = OPS.attention_dual_forward(q, k, v, qt, kt, vt, 0.125, True)
    return o, ot, *OPS.attention_dual_backward(q, k, v, qt, kt, vt, o, ot, *stats, g, h, 0.125, True)


def _norm(x, xt, w, wt, g, h):
    return *OPS.rms_norm_dual_forward(x, xt, w, wt, 1e-6), *OPS.rms_norm_dual_backward(x, xt, w, wt, g, h, 1e-6)


def _gated(gate, up, gate_t, up_t, g, h):
    forward = OPS.gated_mlp_dual_forward(gate, up, gate_t, up_t, "silu")
    return *forward, *OPS.gated_mlp_dual_backward(gate, up, gate_t, up_t, g, h, "silu")


def _linear(x, xt, w, wt, g, h):
    return *OPS.linear_dual_forward(x, xt, w, wt), *OPS.linear_dual_backward(w, wt, g, h)


def _small_systems(a, rhs):
    wide = torch.float64 if a.dtype == torch.float64 else torch.float32
    return small_cholesky.solve(a.to(wide) @ a.to(wide).mT, rhs.to(wide), 1.0)[:1]


def _sample_space(x, g, w, rows, v, c):
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    sums = torch.zeros(g.shape[1], x.shape[1], dtype=wide, device=x.device)
    return (
        weighted_gradient(x, g, w.to(wide), sums), explicit_rows.matvec(rows, v.to(wide)),
        explicit_rows.rmatvec(rows, c.to(wide)),
    )  # fmt: skip


def _gram(offsets):
    def gram(x, g):
        return (ghost_gram(x, g, offsets.to(x.device)),)

    return gram


def _loss(labels):
    def loss(x, xt, w, wt, weights):
        return OPS.linear_cross_entropy_hessian(x, xt, w, wt, labels.to(x.device), weights)

    return loss


def _jobs(device: str, toy: bool) -> dict[str, tuple[Callable, list[tuple[int, ...]]]]:
    n, d, wide, vocabulary, m = (11, 16, 24, 37, 5) if toy else (250, 128, 344, 1003, 40)
    heads, keys = (1, 4, n, 64), (1, 2, n, 64)
    pairs = [(n, d), (1, n, d)]
    offsets = torch.tensor([0, 3, 3, n // 2, n]).to(device)
    labels = torch.arange(n).remainder(vocabulary).where(torch.arange(n) % 5 != 0, torch.tensor(-100)).to(device)
    return {
        "attention": (_attention, [heads, keys, keys, *((1, *s) for s in (heads, keys, keys)), heads, (1, *heads)]),
        "rms norm": (_norm, [*pairs, (d,), (1, d), *pairs]),
        "gated": (_gated, [(n, wide), (n, wide), *[(1, n, wide)] * 2, (n, wide), (1, n, wide)]),
        "linear": (_linear, [*pairs, (wide, d), (1, wide, d), (n, wide), (1, n, wide)]),
        "cross-entropy": (_loss(labels), [*pairs, (vocabulary, d), (1, vocabulary, d), (n,)]),
        "ghost gram": (_gram(offsets), [(n, d), (n, wide)]),
        "sample space": (_sample_space, [(n, d), (n, wide), (n,), (m, 1000), (1000,), (m,)]),
        "small systems": (_small_systems, [(7, 9, 9), (7, 9, 2)]),
    }  # fmt: skip


#: torch.compile takes registered operators; the others are called from outside of compiled code.
COMPILED = ("attention", "rms norm", "gated", "linear", "cross-entropy")


def in_a_graph(run: Callable[[], Any], refresh: Callable[[], None]) -> Any:  # needs a GPU
    """Recorded with the old inputs, replayed with the new ones."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # the warm-up: kernels are compiled and their tiles timed
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    refresh()
    graph.replay()
    torch.cuda.synchronize()
    return out


def on_a_stream(run: Callable[[], Any], refresh: Callable[[], None]) -> Any:  # needs a GPU
    """The new inputs arrive late on a stream of their own: a kernel on another stream would read the old ones."""
    run()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)  # cycles: about a hundredth of a second
        refresh()
        out = run()
    stream.synchronize()
    return out


def in_compiled_code(run: Callable[[], Any], refresh: Callable[[], None]) -> Any:  # needs a GPU
    compiled = torch.compile(run, fullgraph=True)
    compiled()
    refresh()
    return compiled()


def plainly(run: Callable[[], Any], refresh: Callable[[], None]) -> Any:
    """For a dry run, where there are no graphs and streams."""
    run()
    refresh()
    return run()


WAYS = {"in a CUDA graph": in_a_graph, "on a stream": on_a_stream, "in compiled code": in_compiled_code}


def check_runtime(record: Record, device: str, backend: str, toy: bool) -> None:
    """Every job in every way, against float64 on the CPU with the new inputs, by the backends that ops choose."""
    for name, job in _jobs(device, toy).items():
        for way, go in (WAYS if device == "cuda" else dict.fromkeys(WAYS, plainly)).items():
            if way != "in compiled code" or name in COMPILED:
                title = f"{name}, {way}"
                record.run(title, functools.partial(_check, record, title, go, *job, device))


def _check(record: Record, title: str, go: Callable, function: Callable, shapes: list, device: str) -> None:
    generator = torch.Generator().manual_seed(7)
    old, new = ([torch.randn(s, generator=generator).to(HALF) for s in shapes] for _ in range(2))
    truth = function(*(t.double() for t in new))
    got = _after_refresh(go, function, [t.to(device) for t in old], [t.to(device) for t in new])
    record.compare(title, HALF, got, truth, [str(n) for n in range(len(truth))])


def _after_refresh(go: Callable, function: Callable, inputs: Inputs, fresh: Inputs) -> Any:
    def refresh() -> None:
        for target, value in zip(inputs, fresh, strict=True):
            target.copy_(value)

    return go(lambda: function(*inputs), refresh)
