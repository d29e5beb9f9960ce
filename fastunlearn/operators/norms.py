"""Norms of per-sample gradients: the diagonal of their Gram matrix, without the rest of it.

    |g_i|^2 = sum over parameters, over pairs of tokens t, s of sample i, of (x_t . x_s)(g_t . g_s)

For a linear layer that is two small products per sample; it wins over forming the gradient where the sample is short
(T (d_in + d_out) < d_in d_out). What has no such factors, or several uses, is formed in tiles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .sample_gradients import SampleGradients
from .sources import LinearSource, Source, tiles

__all__ = ["squared_norms"]


def squared_norms(gradients: SampleGradients) -> Tensor:
    """(m,) float64, on the gradients' device: the squared Euclidean norm of every sample's gradient.

    One capture pass (more where the memory of ``gradients`` does not hold all factors); no loop over samples.
    """
    total = torch.zeros(len(gradients), dtype=torch.float64, device=gradients.device)
    for name, sources in gradients.passes():
        shape = gradients.parameters[name].shape
        if len(sources) == 1 and isinstance(sources[0], LinearSource):
            total += _linear(sources[0], shape, gradients.memory_bytes)
        else:
            total += _formed(sources, len(gradients), shape, gradients.memory_bytes)
    return total


def _formed(sources: list[Source], samples: int, shape: torch.Size, memory_bytes: int) -> Tensor:
    formed = tiles(sources, samples, shape, memory_bytes // 8, tokens=True)
    return sum(tile.double().square().sum(1) for _, tile in formed)


def _linear(source: LinearSource, shape: torch.Size, memory_bytes: int) -> Tensor:
    """Samples of one length share their products; those for which forming is cheaper are formed."""
    lengths = source.offsets.diff()
    out = torch.zeros(lengths.numel(), dtype=torch.float64, device=lengths.device)
    height, width = source.x.shape[1], source.g.shape[1]
    for length in torch.unique(lengths).tolist():
        if length == 0:
            continue
        which = torch.nonzero(lengths == length).squeeze(1)
        ghost = length * (height + width) < height * width
        numbers = 2 * length * length + length * (height + width) if ghost else height * width
        for some in which.split(max(1, memory_bytes // (64 * numbers))):
            token = source.offsets[some][:, None] + torch.arange(length, device=lengths.device)
            x, g = source.x[token].double(), source.g[token].double()
            if ghost:
                out[some] = (torch.bmm(x, x.transpose(1, 2)) * torch.bmm(g, g.transpose(1, 2))).sum((1, 2))
            else:
                out[some] = torch.bmm(g.transpose(1, 2), x).square().sum((1, 2))
    return out
