"""Every CUDA kernel once, on small odd shapes: what bench/device.sh runs under compute-sanitizer."""

import torch

from fastunlearn.ops.ghost_gram import ghost_gram
from fastunlearn.ops.null import null

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
torch.cuda.synchronize()
print("done")
