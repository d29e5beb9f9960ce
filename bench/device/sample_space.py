"""The kernels of the solves in sample space: ghost Gram, explicit rows, weighted gradient, many small systems."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch

from bench.device.measure import Bench
from fastunlearn.ops import explicit_rows, small_cholesky
from fastunlearn.ops.ghost_gram import ghost_gram
from fastunlearn.ops.weighted_gradient import weighted_gradient

KERNELS = {"CUDA": "cuda", "Triton": "triton"}


def gram(bench: Bench) -> list:
    """Ghost Gram of 32768 tokens, 4096 -> 4096, as a share of the plain product's rate (half by symmetry)."""
    tokens, width = (96, 16) if bench.toy else (32768, 4096)

    def fill(case: dict) -> Iterator[None]:
        x, g = bench.draw(tokens, width), bench.draw(tokens, width)
        offsets = torch.arange(0, tokens + 1, case["length"])
        for name, backend in (KERNELS if x.is_cuda else {"reference": "reference"}).items():
            result = bench.measure(functools.partial(ghost_gram, x, g, offsets, backend=backend))
            bench.share_of_product_rate(result, 2 * tokens * tokens / 2 * 2 * width)
            case["ways"][f"fastunlearn: {name}"] = result
            yield

    lengths = (8,) if bench.toy else (1, 32, 256)
    return [({"tokens": tokens, "length": length, "width": width, "ways": {}}, fill) for length in lengths]


def rows(bench: Bench) -> list:
    """G v and G^T c, as a share of the rate of a copy; float32, bfloat16, int8."""
    m, width = (4, 1000) if bench.toy else (256, 16 * 2**20)

    def fill(dtype: torch.dtype, case: dict) -> Iterator[None]:
        scales = None
        if dtype == torch.int8:
            matrix = torch.randint(-127, 128, (m, width), dtype=dtype, device=bench.device)
            scales = torch.rand(m, -(-width // 128), device=bench.device)
        else:
            matrix = bench.draw(m, width, dtype=dtype)
        v, c = bench.draw(width, dtype=torch.float32), bench.draw(m, dtype=torch.float32)
        out = torch.zeros(width, device=bench.device)
        for name, run in {
            "G v": functools.partial(explicit_rows.matvec, matrix, v, scales),
            "G^T c": functools.partial(explicit_rows.rmatvec, matrix, c, scales, out=out),
        }.items():
            case["ways"][name] = bench.measure(run)
            bench.share_of_copy_rate(case["ways"][name], matrix.numel() * matrix.element_size())
            yield

    return [({"m": m, "columns": width, "dtype": str(dtype)[6:], "ways": {}}, functools.partial(fill, dtype))
            for dtype in (torch.float32, bench.half, torch.int8)]  # fmt: skip


def weighted(bench: Bench) -> list:
    """out += (w g)^T x, 32768 tokens, beside PyTorch: a scaled copy, a product in the dtype, an addition in float32."""
    tokens = 96 if bench.toy else 32768

    def fill(case: dict) -> Iterator[None]:
        d_in, d_out = case["d_in"], case["d_out"]
        x, g = bench.draw(tokens, d_in), bench.draw(tokens, d_out)
        w = torch.rand(tokens, device=bench.device)
        out = torch.zeros(d_out, d_in, device=bench.device)

        def plain():
            out.add_((g * w[:, None]).to(g.dtype).mT @ x)

        ours = {
            f"fastunlearn: {name}": functools.partial(weighted_gradient, x, g, w, out, backend=backend)
            for name, backend in (KERNELS if x.is_cuda else {"reference": "reference"}).items()
        }
        for name, run in (*ours.items(), ("torch, rounded once", plain)):
            case["ways"][name] = bench.measure(run)
            bench.share_of_product_rate(case["ways"][name], 2 * tokens * d_in * d_out)
            yield

    shapes = ((16, 24),) if bench.toy else ((2048, 2048), (4096, 14336))
    return [({"tokens": tokens, "d_in": d_in, "d_out": d_out, "ways": {}}, fill) for d_in, d_out in shapes]


def systems(bench: Bench) -> list:
    """Many small positive definite systems, beside PyTorch's batched Cholesky (cuSOLVER, MAGMA)."""

    def fill(case: dict) -> Iterator[None]:
        count, size = case["systems"], case["size"]
        factor = torch.randn(count, size, size, device=bench.device)
        a = factor @ factor.mT / size + torch.eye(size, device=bench.device)
        rhs = torch.randn(count, size, 1, device=bench.device)
        case["ways"]["fastunlearn"] = bench.measure(functools.partial(small_cholesky.solve, a, rhs, 0.0))
        yield
        case["ways"]["torch: linalg.cholesky and cholesky_solve"] = bench.measure(
            lambda: torch.cholesky_solve(rhs, torch.linalg.cholesky(a))
        )
        yield

    sizes = ((5, 7),) if bench.toy else ((4096, 32), (1024, 64), (256, 128))
    return [({"systems": count, "size": size, "dtype": "float32", "ways": {}}, fill) for count, size in sizes]
