"""What this machine reaches at most, in matrix products and in copies: the limits that shares in results are of."""

from __future__ import annotations

import time

import torch

__all__ = ["copy_bandwidth", "gemm_peak"]


def _ways(x: torch.Tensor, weight: torch.Tensor):
    yield lambda: torch.nn.functional.linear(x, weight)
    fused = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if fused is not None and x.device.type == "cpu" and x.dtype != torch.float64:
        yield lambda: fused(x, weight, None, "none", [], "")


def _least_seconds(run, rounds: int, device: str) -> float:
    """Of the best of ``rounds`` calls, the first of which warms up."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def gemm_peak(dtype: torch.dtype = torch.float32, size: int = 1536, rounds: int = 10, device: str = "cpu") -> float:
    """GFLOP/s of the best round of the best library for size x size x size, with PyTorch's present threads."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, size, generator=generator).to(device, dtype)
    weight = torch.randn(size, size, generator=generator).to(device, dtype)
    best = min(_least_seconds(way, rounds, device) for way in _ways(x, weight))
    return 2 * size**3 / best / 1e9


def copy_bandwidth(
    dtype: torch.dtype = torch.float32, size: int = 2**24, rounds: int = 10, device: str = "cpu"
) -> float:
    """GB/s, read and written, of a copy of ``size`` numbers."""
    x = torch.zeros(size, dtype=dtype, device=device)
    y = torch.empty_like(x)
    return 2 * size * x.element_size() / _least_seconds(lambda: y.copy_(x), rounds, device) / 1e9
