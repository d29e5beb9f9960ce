"""Checks of the sample-space ops on one backend and device: the tests and bench/device/check.py run the same ones."""

from __future__ import annotations

import torch

from fastunlearn.ops import explicit_rows, low_rank_apply, small_cholesky
from fastunlearn.ops.weighted_gradient import weighted_gradient

#: Largest error over the largest element of the truth (float64 of the same inputs). w_t g_t is two bfloat16 numbers.
LIMIT = {torch.float32: 5e-6, torch.float64: 1e-13, torch.bfloat16: 2e-5, torch.float16: 5e-6, torch.int8: 5e-6}
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


Damped = tuple[torch.Tensor, float, torch.Tensor, torch.Tensor]


def damped(x: torch.Tensor, g: torch.Tensor, samples: int) -> Damped:
    """The samples' gradients G (float64), the damping, and c and b of ``(G G^T + damping) c = b``."""
    parts = g.double().view(samples, -1, g.shape[1]).mT @ x.double().view(samples, -1, x.shape[1])
    gradients, b = parts.flatten(1), draw(samples, seed=5)
    k = gradients @ gradients.T
    damping = 1e-5 * float(torch.linalg.eigvalsh(k)[-1])
    return gradients, damping, torch.linalg.solve(k + damping * torch.eye(samples).double(), b), b


def nearly_singular(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, Damped]:
    """x and g of ``dtype``, and what :func:`damped` makes of them. Samples are alike, so G^T c is a small difference of
    large terms: what rounds each term shows, magnified."""
    base = draw(32 * 8, 4)
    x = (base @ draw(4, 24, seed=1) + 0.1 * draw(len(base), 24, seed=2)).to(dtype)
    g = ((base @ draw(4, 40, seed=3) + 0.1 * draw(len(base), 40, seed=4)) * 3e-3).to(dtype)
    return x, g, damped(x, g, 32)


def check_direction(got: torch.Tensor, gradients: torch.Tensor, damping: float, c: torch.Tensor, b: torch.Tensor):
    """``got`` for G^T c, by its error and by what it leaves of the damped system: the CPU's float32 keeps these too."""
    got, truth = got.cpu().double().flatten(), c @ gradients
    assert (got - truth).norm() <= 1e-4 * truth.norm()
    assert (gradients @ got + damping * c - b).norm() <= 1e-3 * b.norm()


def check_weights_of_a_solve(dtype: torch.dtype, backend: str, device: str) -> None:
    x, g, system = nearly_singular(dtype)
    c = system[2]
    weights = c.float().repeat_interleave(len(x) // len(c)).to(device)
    out = torch.zeros(g.shape[1], x.shape[1], device=device)
    weighted_gradient(x.to(device), g.to(device), weights, out, backend=backend)
    check_direction(out, *system)


def check_range_of_weights(size: float, weight: float, backend: str, device: str) -> None:
    """float16: gradients of about ``size`` and weights up to ``weight``, whose products lie outside of its range."""
    x, g = draw(33, 24).half(), (size * draw(33, 40, seed=1)).half()
    w = (weight * draw(33, seed=2)).float()
    got = weighted_gradient(
        x.to(device), g.to(device), w.to(device), torch.zeros(40, 24, device=device), backend=backend
    )
    assert error(got, (g.double() * w.double()[:, None]).T @ x.double()) <= LIMIT[torch.float16]


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
