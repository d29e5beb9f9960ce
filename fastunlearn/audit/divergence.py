"""Divergence (Kullback-Leibler, Jensen-Shannon) from a reference model, most often the retrained one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastunlearn.audit._forward import check_samples, evaluating, target_logits
from fastunlearn.errors import InvalidInputError

if TYPE_CHECKING:
    from fastunlearn.data.encode import Encoded

__all__ = ["Divergences", "ReferenceLogProbs", "divergences", "kl", "reference_log_probs"]


@dataclass(frozen=True)
class ReferenceLogProbs:
    """A reference model's log-probabilities, kept so that it need not run again.

    ``rows[i]`` (n_i, V), on the CPU: one row for each target token of sample i. ``targets[i]`` (n_i,): those
    tokens, by which a use with other samples is noticed.
    """

    rows: list[Tensor]
    targets: list[Tensor]


def _sample_targets(sample: Encoded) -> Tensor:
    return sample.labels[1:][sample.labels[1:] != -100]


def reference_log_probs(
    model: torch.nn.Module,
    samples: Sequence[Encoded],
    *,
    pad_token_id: int,
    batch_size: int = 64,
    dtype: torch.dtype = torch.float32,
) -> ReferenceLogProbs:
    """Log-probabilities over the whole vocabulary at every target position of ``samples``.

    Takes (target tokens) x (vocabulary) numbers of ``dtype``: float16 (half the memory; adds about 1e-6
    nats to a KL), float32 or float64.
    """
    if dtype not in (torch.float16, torch.float32, torch.float64):
        raise InvalidInputError(f"dtype={dtype}: use torch.float16, torch.float32 or torch.float64")
    samples = check_samples(samples)
    rows: list[Tensor] = [torch.empty(0)] * len(samples)
    with evaluating(model):
        for logits, _, owner in target_logits(
            model, samples, pad_token_id=pad_token_id, batch_size=batch_size
        ):
            log_probs = logits.log_softmax(1).to(dtype).cpu()
            for index in owner.unique().tolist():
                rows[index] = log_probs[owner == index]
    return ReferenceLogProbs(rows, [_sample_targets(sample) for sample in samples])


def _check_reference(reference: ReferenceLogProbs, samples: list[Encoded]) -> None:
    same = len(reference.targets) == len(samples) and all(
        torch.equal(kept, _sample_targets(sample))
        for kept, sample in zip(reference.targets, samples, strict=True)
    )
    if not same:
        raise InvalidInputError("reference: was computed for other samples; compute it for these")


def _comparable(reference: Tensor, model: Tensor, normalised: bool) -> tuple[Tensor, Tensor]:
    """Log-probabilities of both, from logits (n, V); of the reference from log-probabilities where ``normalised``."""
    if reference.shape != model.shape:
        raise InvalidInputError(
            f"reference: its vocabulary has {reference.shape[1]} tokens and the model's {model.shape[1]}; "
            "compare models of one tokenizer"
        )
    return reference if normalised else reference.log_softmax(1), model.log_softmax(1)


def _row_kl(reference: Tensor, model: Tensor) -> Tensor:
    """KL(reference || model) of each row of log-probabilities (n, V)."""
    return (reference.exp() * (reference - model)).sum(1).clamp_min(0)


def _row_js(reference: Tensor, model: Tensor) -> Tensor:
    """The Jensen-Shannon divergence of each row of log-probabilities (n, V), 0 to log 2."""
    middle = torch.logaddexp(reference, model) - math.log(2)
    return (_row_kl(reference, middle) + _row_kl(model, middle)) / 2


def _pairs(reference, model, samples: list[Encoded], pad_token_id: int, batch_size: int):
    """Per batch: log-probabilities (n, V) of the reference and of the model, and the index of each row's sample."""
    cached = isinstance(reference, ReferenceLogProbs)
    if cached:
        _check_reference(reference, samples)
    with evaluating(model):
        for logits, _, owner in target_logits(model, samples, pad_token_id=pad_token_id, batch_size=batch_size):
            chosen = owner.unique_consecutive().tolist()
            if cached:
                other = torch.cat([reference.rows[index] for index in chosen])
            else:
                with evaluating(reference):
                    passes = target_logits(
                        reference,
                        [samples[index] for index in chosen],
                        pad_token_id=pad_token_id,
                        batch_size=len(chosen),
                    )
                    other = _in_order(passes)
            dtype = torch.promote_types(logits.dtype, torch.float32)
            # Rounded ones, whose sum is not quite one, are normalised anew; others would only lose their last bits, by
            # which a model would differ from itself.
            whole = cached and torch.promote_types(other.dtype, dtype) == other.dtype
            yield *_comparable(other.to(logits.device, dtype), logits, whole), owner


def kl(
    reference: torch.nn.Module | ReferenceLogProbs,
    model: torch.nn.Module,
    samples: Sequence[Encoded],
    *,
    pad_token_id: int,
    batch_size: int = 64,
) -> float:
    """Mean over the target positions of KL(reference || model), in nats; 0 where both predict the same.

    ``reference``: a model, or what :func:`reference_log_probs` gave for the same samples. Holds the
    logits of one batch of each model at a time. Raises InvalidInputError for a cached reference of
    other samples, for vocabularies of different sizes, and as :func:`~fastunlearn.audit.scores.token_scores`.
    """
    samples = check_samples(samples)
    total, count = 0.0, 0
    for other, own, _ in _pairs(reference, model, samples, pad_token_id, batch_size):
        total += float(_row_kl(other, own).double().sum())
        count += len(own)
    return total / count


@dataclass(frozen=True)
class Divergences:
    """Of n target tokens of m samples, in the order of the samples, on the CPU: ``kl`` and ``js`` (n,) float64 in
    nats, ``sample`` (n,) int64, ``samples``: m."""

    kl: Tensor
    js: Tensor
    sample: Tensor
    samples: int


def divergences(
    reference: torch.nn.Module | ReferenceLogProbs,
    model: torch.nn.Module,
    samples: Sequence[Encoded],
    *,
    pad_token_id: int,
    batch_size: int = 64,
) -> Divergences:
    """KL(reference || model) (Kullback & Leibler 1951) and the Jensen-Shannon divergence (Lin 1991) at every target
    position. Arguments and errors as :func:`kl`."""
    samples = check_samples(samples)
    kls, jss, owners = [], [], []
    for other, own, owner in _pairs(reference, model, samples, pad_token_id, batch_size):
        kls.append(_row_kl(other, own).double().cpu())
        jss.append(_row_js(other, own).double().cpu())
        owners.append(owner)
    owner = torch.cat(owners)
    order = torch.argsort(owner, stable=True)
    return Divergences(torch.cat(kls)[order], torch.cat(jss)[order], owner[order], len(samples))


def _in_order(passes) -> Tensor:
    """The rows of all batches in the order of their samples."""
    rows, owners = [], []
    for logits, _, owner in passes:
        rows.append(logits)
        owners.append(owner)
    order = torch.argsort(torch.cat(owners), stable=True)
    return torch.cat(rows)[order.to(rows[0].device)]
