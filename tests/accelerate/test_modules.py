"""Which op stands for a module that spells it out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastunlearn.accelerate.modules import replacement_of


class RMSNorm(nn.Module):
    """By w, or by 1 + w as Gemma does."""

    def __init__(self, offset: float):
        super().__init__()
        self.offset, self.eps = offset, 1e-6
        self.weight = nn.Parameter(torch.rand(6))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * (self.offset + self.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_one_large_weight_hides_no_offset(offset, dtype):
    """Beside its results those of the others are within a half type's rounding."""
    module = RMSNorm(offset).to(dtype)
    module.weight.data[0] = 100.0
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    own, found = module(x), replacement_of(module)(module, x)
    assert torch.allclose(own, found, rtol=0.03 if dtype == torch.bfloat16 else 1e-5, atol=0)
