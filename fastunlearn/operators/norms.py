"""Norms of per-sample gradients: the diagonal of their Gram matrix, without the rest of it.

    |g_i|^2 = sum over parameters, over pairs of tokens t, s of sample i, of (x_t . x_s)(g_t . g_s)

For a linear layer that is two small products per sample; it wins over forming the gradient where the sample is short
(T (d_in + d_out) < d_in d_out). An embedding's x are one-hot, so that x_t . x_s is whether the tokens are one, and with
an output layer that shares its weight, the entry of that layer's g at the token. What has no such factors is formed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from .sample_gradients import SampleGradients
from .sources import EmbeddingSource, LinearSource, Source, tiles

__all__ = ["squared_norms"]

Factors = LinearSource | EmbeddingSource


def squared_norms(gradients: SampleGradients) -> Tensor:
    """(m,) float64, on the gradients' device: the squared Euclidean norm of every sample's gradient.

    One capture pass (more where the memory of ``gradients`` does not hold all factors); no loop over samples.
    """
    total = torch.zeros(len(gradients), dtype=torch.float64, device=gradients.device)
    for name, sources in gradients.passes():
        shape, memory = gradients.parameters[name].shape, gradients.memory_bytes
        if all(isinstance(source, Factors) for source in sources) and _pairs_pay(sources, shape):
            total += _by_pairs(sources, memory)
        else:
            formed = tiles(sources, len(gradients), shape, memory // 8, tokens=True)
            total += sum(tile.double().square().sum(1) for _, tile in formed)
    return total


def _pairs_pay(sources: list[Source], shape: torch.Size) -> bool:
    """Whether the multiply-adds of all pairs of tokens are fewer than those of forming the gradients."""
    sides = list(itertools.combinations_with_replacement(range(len(sources)), 2))
    lengths = [source.offsets.diff().double() for source in sources]
    pairs = sum(float((lengths[a] * lengths[b]).sum()) for a, b in sides) * sum(shape)
    return pairs < sum(float(length.sum()) for length in lengths) * shape.numel()


def _by_pairs(sources: list[Factors], memory_bytes: int) -> Tensor:
    """Sums over pairs of tokens, for all samples of the same lengths at once: (m,) float64."""
    lengths = torch.stack([source.offsets.diff() for source in sources], 1)
    out = torch.zeros(len(lengths), dtype=torch.float64, device=lengths.device)
    for which in _alike(lengths):
        each = [int(length) for length in lengths[which[0]]]
        width = sum(n * _width(source) for n, source in zip(each, sources, strict=True)) + 2 * sum(each) ** 2
        for some in which.split(max(1, memory_bytes // (32 * max(1, width)))):
            parts = [_cut(source, some, n) for source, n in zip(sources, each, strict=True)]
            for a, b in itertools.combinations_with_replacement(parts, 2):
                out[some] += (1 if a is b else 2) * _products(a, b)
    return out


def _width(source: Factors) -> int:
    return source.g.shape[1] + (source.x.shape[1] if isinstance(source, LinearSource) else 1)


def _alike(lengths: Tensor) -> Iterator[Tensor]:
    """Indices of the samples that have the same row of ``lengths`` (m, sources)."""
    _, place = torch.unique(lengths, dim=0, return_inverse=True)
    for index in range(int(place.max()) + 1 if place.numel() else 0):
        yield torch.nonzero(place == index).squeeze(1)


def _cut(source: Factors, some: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """For n samples of ``length`` tokens: x (n, T, d_in) or ids (n, T), and g (n, T, d_out), wide."""
    token = source.offsets[some][:, None] + torch.arange(length, device=some.device)
    g = source.g[token].double()
    return (source.x[token].double() if isinstance(source, LinearSource) else source.ids[token]), g


def _products(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
    """(n,): for each sample the inner product of its gradients by two uses of one weight."""
    if a[0].dim() < b[0].dim():  # an embedding first: the other way round is the same
        a, b = b, a
    if b[0].dim() == 3:
        inputs = torch.bmm(a[0], b[0].transpose(1, 2))
    elif a[0].dim() == 2:
        inputs = a[0][:, :, None] == b[0][:, None, :]
    else:  # a weight (V, d): the layer's gradient at the row of the embedded token, times x . g
        chosen = a[1].gather(2, b[0][:, None, :].expand(-1, a[1].shape[1], -1))
        return (chosen * torch.bmm(a[0], b[1].transpose(1, 2))).sum((1, 2))
    return (inputs * torch.bmm(a[1], b[1].transpose(1, 2))).sum((1, 2))
