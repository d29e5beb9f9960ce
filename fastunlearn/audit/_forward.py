"""Forward passes for measuring: batches of like length, under a bound on the memory of the logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastunlearn.data.encode import collate
from fastunlearn.errors import InvalidInputError

if TYPE_CHECKING:
    from fastunlearn.data.encode import Encoded

#: Bytes that the logits of one forward pass may take (samples x tokens x vocabulary, in float32).
LOGITS_BYTES = 256 * 2**20


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) without gradients; every module's mode is as before at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def vocabulary_size(model: torch.nn.Module) -> int:
    """The width of the logits of ``model`` (a causal language model of transformers)."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None or not hasattr(head, "weight"):
        raise InvalidInputError("model: no output embedding found; pass a causal language model")
    return int(head.weight.shape[0])


def check_samples(samples: Sequence[Encoded], name: str = "samples") -> list[Encoded]:
    """``samples`` as a list. Raises InvalidInputError where it is empty, or one has no target token.

    The first token of a sample is never a target: nothing before it predicts it.
    """
    samples = list(samples)
    if not samples:
        raise InvalidInputError(f"{name}: no samples; pass at least one encoded record")
    for index, sample in enumerate(samples):
        ids, labels = sample.input_ids, sample.labels
        if ids.ndim != 1 or ids.shape != labels.shape:
            raise InvalidInputError(
                f"{name}[{index}]: input_ids {tuple(ids.shape)} and labels {tuple(labels.shape)} must be "
                "one-dimensional and of one length; make them with fastunlearn.data.encode"
            )
        if not bool((labels[1:] != -100).any()):
            raise InvalidInputError(f"{name}[{index}]: no target token, so it has no loss; leave it out")
    return samples


def length_batches(
    lengths: Sequence[int], vocabulary: int, *, batch_size: int, logits_bytes: int = LOGITS_BYTES
) -> Iterator[list[int]]:
    """Indices in batches of like length, longest first, so that the padding and the logits stay small."""
    if batch_size < 1:
        raise InvalidInputError(f"batch_size={batch_size} must be at least 1")
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    start = 0
    while start < len(order):
        longest = max(1, lengths[order[start]])
        size = max(1, min(batch_size, logits_bytes // (4 * longest * vocabulary)))
        yield order[start : start + size]
        start += size


def target_logits(
    model: torch.nn.Module, samples: Sequence[Encoded], *, pad_token_id: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Per batch: logits (n, V) at the positions that predict a target, the targets (n,), both on the model's
    device, and the index (n,) of each target's sample, on the CPU. Call it inside :func:`evaluating`.

    The logits are float64 for a float64 model and float32 for every other. Within a batch the samples are
    in the batch's own order; sort by sample index (stable) for the order of ``samples``.
    Raises InvalidInputError where the model gives NaN or infinite logits.
    """
    device = next(model.parameters()).device
    lengths = [len(sample.input_ids) for sample in samples]
    for chosen in length_batches(lengths, vocabulary_size(model), batch_size=batch_size):
        batch = collate([samples[index] for index in chosen], pad_token_id=pad_token_id)
        logits = model(
            input_ids=batch["input_ids"].to(device),
            attention_mask=batch["attention_mask"].to(device),
            use_cache=False,
        ).logits
        wanted = batch["labels"][:, 1:] != -100
        rows = logits[:, :-1][wanted.to(device)]
        rows = rows if rows.dtype == torch.float64 else rows.float()
        if not bool(torch.isfinite(rows).all()):
            raise InvalidInputError("model: its logits hold NaN or infinity; it cannot be measured")
        owner = torch.tensor(chosen)[:, None].expand_as(wanted)[wanted]
        yield rows, batch["labels"][:, 1:][wanted].to(device), owner
