"""Every CUDA kernel once, on small odd shapes: what bench/device.sh runs under compute-sanitizer."""

import torch

from fastunlearn.ops import explicit_rows, low_rank_apply, small_cholesky
from fastunlearn.ops.ghost_gram import ghost_gram
from fastunlearn.ops.null import null
from fastunlearn.ops.weighted_gradient import weighted_gradient

generator = torch.Generator().manual_seed(0)


def tokens(count: int, d_in: int, d_out: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.randn(count, d_in, generator=generator).to(dtype).cuda()
    g = torch.randn(count, d_out, generator=generator).to(dtype).cuda()
    return x, g, torch.tensor([0, 1, 1, count // 2, count])


null(torch.ones(1001, device="cuda"), backend="cuda")
for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
    first, second = tokens(130, 33, 17, dtype), tokens(67, 33, 17, dtype)
    for bias in (False, True):
        ghost_gram(*first, bias=bias, backend="cuda")
        ghost_gram(*first, *second, bias=bias, backend="cuda")
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for weights in (None, torch.rand(130, generator=generator).to(wide).cuda()):
        weighted_gradient(first[0], first[1], weights, torch.zeros(17, 33, dtype=wide, device="cuda"), backend="cuda")
        aligned = torch.randn(130, 160, generator=generator).to(dtype).cuda()
        weighted_gradient(aligned, aligned, weights, torch.zeros(160, 160, dtype=wide, device="cuda"), backend="cuda")
for dtype in (torch.float32, torch.bfloat16, torch.int8):
    for width in (1001, 1024, 70000):  # rows that are not aligned, and rows that are; more than one stretch of columns
        rows = torch.ones(11, width, dtype=dtype, device="cuda")
        scales = torch.ones(11, -(-width // 128), device="cuda")
        explicit_rows.matvec(rows, torch.ones(width, device="cuda"), scales, backend="cuda")
        explicit_rows.rmatvec(rows, torch.ones(11, device="cuda"), scales, backend="cuda")
    for width in (33, 64):
        blocks, scales = torch.ones(5, 11, width, dtype=dtype, device="cuda"), torch.ones(5, 11, device="cuda")
        low_rank_apply.dot(blocks, torch.ones(2, 5, width, device="cuda"), scales, backend="cuda")
        low_rank_apply.combine(blocks, torch.ones(2, 5, 11, device="cuda"), scales, backend="cuda")
for dtype in (torch.float32, torch.float64):
    good = (torch.eye(33, dtype=dtype) + 0.01).expand(3, 33, 33).clone()
    good[1, 5, 5] = -1
    small_cholesky.solve(good.cuda(), torch.ones(3, 33, 2, dtype=dtype, device="cuda"), 0.1, backend="cuda")
torch.cuda.synchronize()
print("done")
