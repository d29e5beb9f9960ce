"""The kernels of the solves in sample space: ghost Gram, explicit rows, weighted gradient, many small systems."""

from __future__ import annotations

import functools

import torch

from bench.device.measure import Bench
from fastunlearn.ops import explicit_rows, small_cholesky
from fastunlearn.ops.ghost_gram import ghost_gram
from fastunlearn.ops.weighted_gradient import weighted_gradient


def gram(bench: Bench) -> list[dict]:
    """Ghost Gram of 32768 tokens, 4096 -> 4096, as a share of the plain product's rate (half by symmetry)."""
    tokens, width = (96, 16) if bench.toy else (32768, 4096)
    cases = []
    for length in (8,) if bench.toy else (1, 32, 256):
        x, g = bench.draw(tokens, width), bench.draw(tokens, width)
        offsets = torch.arange(0, tokens + 1, length)
        kernels = {"CUDA": "cuda", "Triton": "triton"} if x.is_cuda else {"reference": "reference"}
        ways = {}
        for name, backend in kernels.items():
            result = bench.measure(functools.partial(ghost_gram, x, g, offsets, backend=backend))
            bench.share_of_product_rate(result, 2 * tokens * tokens / 2 * 2 * width)
            ways[f"fastunlearn: {name}"] = result
        cases.append({"tokens": tokens, "length": length, "width": width, "ways": ways})
    return cases


def rows(bench: Bench) -> list[dict]:
    """G v and G^T c, as a share of the rate of a copy; float32, bfloat16, int8."""
    m, width = (4, 1000) if bench.toy else (256, 16 * 2**20)
    cases = []
    for dtype in (torch.float32, bench.half, torch.int8):
        scales = None
        if dtype == torch.int8:
            matrix = torch.randint(-127, 128, (m, width), dtype=dtype, device=bench.device)
            scales = torch.rand(m, -(-width // 128), device=bench.device)
        else:
            matrix = bench.draw(m, width, dtype=dtype)
        v, c = bench.draw(width, dtype=torch.float32), bench.draw(m, dtype=torch.float32)
        out = torch.zeros(width, device=bench.device)
        ways = {
            "G v": bench.measure(functools.partial(explicit_rows.matvec, matrix, v, scales)),
            "G^T c": bench.measure(functools.partial(explicit_rows.rmatvec, matrix, c, scales, out=out)),
        }
        for result in ways.values():
            bench.share_of_copy_rate(result, matrix.numel() * matrix.element_size())
        cases.append({"m": m, "columns": width, "dtype": str(dtype)[6:], "ways": ways})
        del matrix
    return cases


def weighted(bench: Bench) -> list[dict]:
    """out += (w g)^T x, 32768 tokens, beside PyTorch: a scaled copy, a product in the dtype, an addition in float32."""
    tokens = 96 if bench.toy else 32768
    cases = []
    for d_in, d_out in ((16, 24),) if bench.toy else ((2048, 2048), (4096, 14336)):
        x, g = bench.draw(tokens, d_in), bench.draw(tokens, d_out)
        w = torch.rand(tokens, device=bench.device)
        out = torch.zeros(d_out, d_in, device=bench.device)

        def plain(x=x, g=g, w=w, out=out):
            out.add_((g * w[:, None]).to(g.dtype).mT @ x)

        ways = {
            "fastunlearn": bench.measure(functools.partial(weighted_gradient, x, g, w, out)),
            "torch": bench.measure(plain),
        }
        for result in ways.values():
            bench.share_of_product_rate(result, 2 * tokens * d_in * d_out)
        cases.append({"tokens": tokens, "d_in": d_in, "d_out": d_out, "ways": ways})
    return cases


def systems(bench: Bench) -> list[dict]:
    """Many small positive definite systems, beside PyTorch's batched Cholesky (cuSOLVER, MAGMA)."""
    cases = []
    for count, size in ((5, 7),) if bench.toy else ((4096, 32), (1024, 64), (256, 128)):
        factor = torch.randn(count, size, size, device=bench.device)
        a = factor @ factor.mT / size + torch.eye(size, device=bench.device)
        rhs = torch.randn(count, size, 1, device=bench.device)

        def plain(a=a, rhs=rhs):
            return torch.cholesky_solve(rhs, torch.linalg.cholesky(a))

        ways = {
            "fastunlearn": bench.measure(functools.partial(small_cholesky.solve, a, rhs, 0.0)),
            "torch: linalg.cholesky and cholesky_solve": bench.measure(plain),
        }
        cases.append({"systems": count, "size": size, "dtype": "float32", "ways": ways})
    return cases
