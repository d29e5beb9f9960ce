"""What the tests of the dual ops share: the truth by double backward of eager torch in float64, and inputs."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from fastunlearn.ops._dispatch import why_not_live

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
NO_CPU = why_not_live("cpu")
needs_cpu = pytest.mark.skipif(bool(NO_CPU), reason=f"cpu backend: {NO_CPU}")
ON_BACKENDS = pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=needs_cpu)])
#: Every dtype on every backend that has it: the CPU kernels leave float16 to the reference.
HALF_BY_REFERENCE = pytest.mark.parametrize(
    ("dtype", "backend"),
    [(dtype, "reference") for dtype in FLOATS]
    + [pytest.param(dtype, "cpu", marks=needs_cpu) for dtype in FLOATS if dtype != torch.float16],
    ids=str,
)


def wide(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach().double()


def dual_truth(function, primals, tangents, g, h):
    """(y, yt, [gradients for g], [gradients for h and g]) of ``function(*primals)`` by autograd, in float64.

    tangents: one (K, *shape) or None per primal; g as y, h (K, *y.shape) or None. A primal of None stays None.
    """
    leaves = [None if p is None else wide(p).requires_grad_() for p in primals]
    live = [leaf for leaf in leaves if leaf is not None]
    moving = [wide(t) for leaf, t in zip(leaves, tangents, strict=True) if leaf is not None]
    y = function(*leaves)
    first = _gradients((y * wide(g)).sum(), live) if g is not None else [None] * len(live)
    count = next((len(t) for t in (*tangents, h) if t is not None), 0)
    yt, second = [], []
    for k in range(count):
        # Twice backward for each of the two, never thrice: torch's own third derivative of layer_norm is wrong.
        dual = torch.zeros_like(y).requires_grad_()
        along = _along(torch.autograd.grad(y, live, dual, create_graph=True, allow_unused=True), moving, k)
        yt.append(torch.zeros_like(y) if along is None else torch.autograd.grad(along, dual, retain_graph=True)[0])
        value = torch.zeros((), dtype=torch.float64)
        if g is not None:
            back = torch.autograd.grad(y, live, wide(g), create_graph=True, allow_unused=True)
            along = _along(back, moving, k)
            value = value if along is None else value + along
        if h is not None:
            value = value + (y * wide(h[k])).sum()
        second.append(_gradients(value, live))
    stacked = [torch.stack(parts) for parts in zip(*second, strict=True)] if second else [None] * len(live)
    return y.detach(), torch.stack(yt).detach() if yt else None, _fill(first, leaves), _fill(stacked, leaves)


def _along(back, moving, k):
    """The gradients ``back`` times tangent k, summed; None where nothing moves."""
    parts = [(b * t[k]).sum() for b, t in zip(back, moving, strict=True) if b is not None and t is not None]
    return sum(parts[1:], parts[0]) if parts else None


def _gradients(value, leaves):
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = torch.autograd.grad(value, leaves, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(leaf) if one is None else one.detach() for one, leaf in zip(found, leaves, strict=True)]


def _fill(found, leaves):
    values = iter(found)
    return [None if leaf is None else next(values) for leaf in leaves]


def error(got: Tensor, truth: Tensor, floor: float = 0.0) -> float:
    """Largest difference beyond the rounding of the result, in units of the truth's root mean square.

    ``floor``: the unit, where that is smaller. Rounding counts for the half dtypes only: half their epsilon.
    """
    assert got.shape == truth.shape, (got.shape, truth.shape)
    if truth.numel() == 0:
        return 0.0
    if not torch.isfinite(got).all():
        return float("inf")
    scale = max(truth.double().pow(2).mean().sqrt().item(), floor, 1e-30)
    rounding = torch.finfo(got.dtype).eps / 2 if got.dtype.itemsize == 2 else 0.0
    off = (got.double() - truth.double()).abs() - 1.01 * rounding * truth.double().abs()
    return off.max().item() / scale


def check(got: Tensor | None, truth: Tensor | None, limit: float, name: str, floor: float = 0.0) -> None:
    """Asserts that ``got`` is within ``limit`` of the truth; None stands for zero."""
    if truth is None:
        assert got is None, name
        return
    if got is None:
        assert not truth.any(), f"{name} is None, and the truth is not zero"
        return
    assert got.is_contiguous(), name
    off = error(got, truth, floor)
    assert off <= limit, f"{name}: error {off:.2e}, limit {limit:.0e}"


def draw(shape, dtype, seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


def live_isas() -> list[str]:
    if NO_CPU:
        return []
    from fastunlearn import _cpu

    return _cpu.live_isas()


@contextmanager
def poisoned_memory():
    """Fresh memory from ``torch.empty`` is full of NaN: a result that a kernel does not write shows."""
    empty = torch.empty

    def poisoned(*args, **kwargs):
        fresh = empty(*args, **kwargs)
        return fresh.fill_(float("nan")) if fresh.is_floating_point() else fresh

    torch.empty = poisoned
    try:
        yield
    finally:
        torch.empty = empty
