"""Binding of the CUDA ghost Gram kernel (csrc/cuda/ghost_gram.cu)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.ops._dispatch import extension

from ._arguments import Side, segments
from .cpu import DTYPES, _rows
from .formed import mirror_upper


def ghost_gram(first: Side, second: Side | None, bias: bool, out: Tensor) -> Tensor:
    """K (m1, m2) into ``out`` on the tensors' device and its current stream.

    Partial sums are added in float64 by atomics, so their order does not show in a float32 result
    except in the last bit, rarely. Scratch: one float64 matrix (m1, m2).
    """
    device = first.x.device
    with torch.cuda.device(device):
        total = torch.zeros(out.shape, dtype=torch.float64, device=device)
        sides = []
        for side in (first, second or first):
            owner = segments(side.offsets, side.tokens).to(device=device, dtype=torch.int32)
            sides.append((_rows(side.x), _rows(side.g), owner, side.samples, side.tokens))
        views = [
            (x.data_ptr(), x.stride(0), g.data_ptr(), g.stride(0), owner.data_ptr(), samples, tokens)
            for x, g, owner, samples, tokens in sides
        ]
        extension("cuda").ghost_gram(
            DTYPES[first.x.dtype], first.x.shape[1], first.g.shape[1], views[0], views[1], second is None, bias,
            total.data_ptr(), torch.cuda.current_stream(device).cuda_stream,
        )  # fmt: skip
        return out.copy_(total) if second is not None else mirror_upper(out, total)
