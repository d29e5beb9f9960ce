"""From a batch of samples to the logits of its target tokens.

Labels follow the convention of transformers: they stand at the position of the token itself, and the model
predicts position t from the positions before it. -100 marks tokens that are not targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .forward import logits
from .model_state import evaluation
from .positions import add_positions
from .samples import Sample, collate_any

__all__ = ["Targets", "make_batch", "sample_labels", "target_logits"]


class Targets(NamedTuple):
    """logits (n, V), at least float32; tokens (n,) int64; sample (n,) int64: the row of the batch each is from."""

    logits: Tensor
    tokens: Tensor
    sample: Tensor


def make_batch(model: nn.Module, samples: Sequence[Sample], pad_token_id: int) -> dict[str, Tensor]:
    """The samples as one right-padded batch on the model's device, with explicit positions where it is known which the
    model would take by itself."""
    device = next(model.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in collate_any(samples, pad_token_id=pad_token_id).items()}
    return add_positions(model, batch)


def target_logits(
    model: nn.Module, batch: dict[str, Tensor], run: Callable[..., Any] | None = None
) -> Targets:
    """One forward pass, of ``run`` in the model's place where it is given: the logits at the positions that predict a
    target token."""
    labels = batch["labels"][:, 1:]
    chosen = labels != -100
    picked = logits(model, batch, run)[:, :-1][chosen]
    rows = torch.arange(labels.shape[0], device=labels.device)[:, None].expand_as(labels)[chosen]
    if picked.dtype in (torch.bfloat16, torch.float16):
        picked = picked.float()
    return Targets(picked, labels[chosen], rows)


@torch.no_grad()
def sample_labels(
    model: nn.Module, samples: Sequence[Sample], *, pad_token_id: int, batch_size: int, seed: int
) -> list[Sample]:
    """The samples with every target token drawn from the model's own prediction at that position.

    The inputs stay as they are; dropout is off, whatever the model's mode. Per-sample gradients of these labels give
    the true Fisher (of cross-entropy, which is its Gauss-Newton matrix) instead of the empirical one. Deterministic in
    ``seed``.
    """
    drawn: list[Sample] = []
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, len(samples), batch_size):
        part = samples[start : start + batch_size]
        with evaluation(model):
            found = target_logits(model, make_batch(model, part, pad_token_id))
        tokens = torch.multinomial(found.logits.double().softmax(1).cpu(), 1, generator=generator).squeeze(1)
        owner = found.sample.cpu()
        for i, sample in enumerate(part):
            labels = sample.labels.clone()
            # The first token of a sample is never predicted, whatever its label says.
            places = torch.nonzero(labels[1:] != -100).squeeze(1) + 1
            labels[places] = tokens[owner == i]
            drawn.append(sample._replace(labels=labels))
    return drawn
