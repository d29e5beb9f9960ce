"""Small ragged samples, and the plainest per-sample gradients there are: the truth of these tests."""

from __future__ import annotations

import torch

from fastunlearn.data.encode import Encoded
from fastunlearn.operators.losses import negative_log_likelihood

VOCABULARY = 37


def make_samples(lengths=(5, 9, 3, 7, 6), prompt=2, seed=0) -> list[Encoded]:
    """Random tokens; the first ``prompt`` of each sample are not targets."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for length in lengths:
        ids = torch.randint(3, VOCABULARY, (length,), generator=generator)
        labels = ids.clone()
        labels[: min(prompt, length - 1)] = -100
        samples.append(Encoded(ids, labels))
    return samples


def true_gradients(model, samples, names=None, loss=negative_log_likelihood) -> torch.Tensor:
    """(m, P): one ordinary backward pass for each sample, unpadded and alone."""
    named = dict(model.named_parameters())
    chosen = [named[name] for name in (names or named)]
    rows = []
    for sample in samples:
        logits = model(input_ids=sample.input_ids[None]).logits[0, :-1]
        labels = sample.labels[1:]
        value = loss(logits[labels != -100], labels[labels != -100]).sum()
        gradients = torch.autograd.grad(value, chosen, allow_unused=True)
        rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten()
                               for p, g in zip(chosen, gradients, strict=True)]))  # fmt: skip
    return torch.stack(rows).detach()


def flat(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])
