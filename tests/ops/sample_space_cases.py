"""Checks of the sample-space ops on one backend and device: the tests and bench/device/check.py run the same ones."""

from __future__ import annotations

import torch

from fastunlearn.ops import explicit_rows, low_rank_apply, small_cholesky
from fastunlearn.ops.weighted_gradient import weighted_gradient

#: Largest error over the largest element of the truth (float64 of the same inputs). w_t g_t is rounded to half.
LIMIT = {torch.float32: 5e-6, torch.float64: 1e-13, torch.bfloat16: 4e-3, torch.float16: 5e-4, torch.int8: 5e-6}
BLOCKS = [(1, 1, 1), (3, 63, 127), (7, 8, 64), (2, 17, 4100), (130, 9, 33), (2, 3, 70000), (0, 4, 8), (4, 0, 8)]
ROWS = [(1, 1), (3, 63), (9, 1000), (17, 70001)]
GRADIENTS = [(1, 1, 1), (33, 65, 127), (127, 130, 63), (200, 256, 128)]
SYSTEMS = [(1, 1, 1), (3, 33, 2), (5, 64, 1), (2, 127, 3)]


def error(got: torch.Tensor, truth: torch.Tensor, floor: float = 1e-300) -> float:
    """``floor``: the size of what was added up, where it may have cancelled."""
    assert got.shape == truth.shape
    if not bool(torch.isfinite(got).all()):
        return float("inf")
    return ((got.double().cpu() - truth).abs().max() / truth.abs().max().clamp_min(floor)).item()


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check_explicit_rows(dtype: torch.dtype, size: tuple[int, int], strided: bool, backend: str, device: str) -> None:
    m, width = size
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    scales, group = None, 128
    if dtype == torch.int8:
        group = 48
        rows = torch.randint(-128, 128, (m, width + 5), generator=torch.Generator().manual_seed(0), dtype=torch.int8)
        scales = draw(m, -(-width // group), seed=3).float()
    else:
        rows = draw(m, width + 5).to(dtype)
    rows = rows[:, 3 : width + 3] if strided else rows[:, :width].contiguous()
    truth = rows.double()
    if scales is not None:
        truth = truth * scales.double().repeat_interleave(group, 1)[:, :width]
    v, c, base = (draw(n, seed=seed).to(wide) for n, seed in ((width, 4), (m, 5), (width, 6)))
    at = None if scales is None else scales.to(device)
    # An odd offset in memory is kept on the device: what is not aligned takes another way through the kernel.
    moved = torch.empty_strided(rows.shape, rows.stride(), dtype=dtype, device=device).copy_(rows)
    got = explicit_rows.matvec(moved, v.to(device), at, group, backend=backend)
    assert error(got, truth @ v.double()) <= LIMIT[dtype if dtype == torch.float64 else torch.float32]
    got = explicit_rows.rmatvec(moved, c.to(device), at, group, backend=backend)
    assert error(got, c.double() @ truth) <= LIMIT[dtype if dtype == torch.float64 else torch.float32]
    out = base.clone().to(device)
    got = explicit_rows.rmatvec(moved, c.to(device), at, group, out=out, backend=backend)
    assert got is out
    assert error(got, base.double() + c.double() @ truth, float(base.abs().max())) <= LIMIT[wide]


def check_low_rank_apply(dtype: torch.dtype, size: tuple[int, int, int], backend: str, device: str) -> None:
    """(blocks, rows, columns), with two vectors for each block."""
    blocks, m, width = size
    g, scales = draw(*size).float(), None
    if dtype == torch.int8:
        g, scales = low_rank_apply.quantise(g) if g.numel() else (g.to(dtype), torch.ones(size[:2]))
    g = g.to(dtype)
    truth = g.double() if scales is None else g.double() * scales.double()[..., None]
    v, c = draw(2, blocks, width, seed=4).float(), draw(2, blocks, m, seed=5).float()
    at = None if scales is None else scales.to(device)
    for call, vector, formula in ((low_rank_apply.dot, v, "bip,kbp->kbi"), (low_rank_apply.combine, c, "bip,kbi->kbp")):
        got = call(g.to(device), vector.to(device), at, backend=backend)
        wanted = torch.einsum(formula, truth, vector.double())
        assert got.shape == wanted.shape
        assert not got.numel() or error(got, wanted) <= LIMIT[torch.float32]


def check_weighted_gradient(
    dtype: torch.dtype, size: tuple[int, int, int], weighted: bool, strided: bool, backend: str, device: str
) -> None:
    n, d_in, d_out = size
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, g = draw(n, d_in + 3).to(dtype)[:, 3:], draw(n, d_out + 1, seed=1).to(dtype)[:, 1:]
    if not strided:
        x, g = x.contiguous(), g.contiguous()
    w, out = draw(n, seed=2).to(wide), draw(d_out, d_in, seed=3).to(wide)
    weights = w.double() if weighted else torch.ones(n, dtype=torch.float64)
    truth = out.double() + (g.double() * weights[:, None]).T @ x.double()
    x, g = (torch.empty_strided(t.shape, t.stride(), dtype=dtype, device=device).copy_(t) for t in (x, g))
    target = out.clone().to(device)
    got = weighted_gradient(x, g, w.to(device) if weighted else None, target, backend=backend)
    assert got is target and error(got, truth, float(out.abs().max())) <= LIMIT[dtype]


def check_small_cholesky(dtype: torch.dtype, size: tuple[int, int, int], backend: str, device: str) -> None:
    """Solves against float64; then one system is made indefinite: it is named, left alone, and spoils no other."""
    count, m, columns = size
    half = draw(count, m, m + 3)
    a = (half @ half.mT / m + 0.5 * torch.eye(m, dtype=torch.float64)).to(dtype)
    rhs = draw(count, m, columns, seed=1).to(dtype)
    truth = torch.linalg.solve(a.double() + 0.25 * torch.eye(m, dtype=torch.float64), rhs.double())
    poisoned = a.tril() + torch.full_like(a, float("nan")).triu(1) if backend == "cuda" else a
    x, info = small_cholesky.solve(poisoned.to(device), rhs.to(device), 0.25, backend=backend)
    assert not info.any() and error(x, truth) <= 40 * LIMIT[dtype]
    a[-1, m // 2, m // 2] = -1.0
    x, info = small_cholesky.solve(a.to(device), rhs.to(device), 0.25, backend=backend)
    assert info.tolist() == [0] * (count - 1) + [m // 2 + 1]
    assert torch.equal(x[-1].cpu(), rhs[-1])
    if count > 1:
        assert error(x[:-1], truth[:-1]) <= 40 * LIMIT[dtype]
