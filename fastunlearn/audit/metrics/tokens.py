"""What one forward pass tells of every target token: the base of most metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fastunlearn.audit._forward import check_samples, evaluating, target_logits
from fastunlearn.audit.scores import TokenScores
from fastunlearn.operators.losses import log_odds

if TYPE_CHECKING:
    from fastunlearn.data.encode import Encoded

__all__ = ["TokenStatistics", "per_sample", "token_statistics"]


@dataclass(frozen=True)
class TokenStatistics(TokenScores):
    """Of n target tokens of m samples, beside their scores, all (n,) float64 on the CPU:

    ``confidence``: the highest probability of any token. ``expected``: the mean of log p over the predicted
    distribution, sum_v p_v log p_v (minus its entropy), in nats. ``spread``: the standard deviation of log p over it.
    ``log_odds``: log p - log(1 - p) of the target.
    """

    confidence: Tensor
    expected: Tensor
    spread: Tensor
    log_odds: Tensor


def token_statistics(
    model: torch.nn.Module, samples: Sequence[Encoded], *, pad_token_id: int, batch_size: int = 64
) -> TokenStatistics:
    """Measure every target token of ``samples`` under ``model`` (evaluation mode, no gradients).

    Arguments and errors as :func:`fastunlearn.audit.scores.token_scores`.
    """
    samples = check_samples(samples)
    columns: list[list[Tensor]] = [[] for _ in range(7)]
    with evaluating(model):
        for logits, targets, owner in target_logits(model, samples, pad_token_id=pad_token_id, batch_size=batch_size):
            log_probs = logits.double().log_softmax(1)
            probs = log_probs.exp()
            expected = (probs * log_probs).sum(1)
            spread = (probs * (log_probs - expected[:, None]).square()).sum(1).sqrt()
            highest, first = log_probs.max(1)
            own = log_probs.gather(1, targets[:, None]).squeeze(1)
            found = (own, first == targets, owner, highest.exp(), expected, spread, log_odds(logits.double(), targets))
            for column, value in zip(columns, found, strict=True):
                column.append(value.cpu())
    owner = torch.cat(columns[2])
    order = torch.argsort(owner, stable=True)
    log_prob, correct, sample, confidence, expected, spread, odds = (torch.cat(column)[order] for column in columns)
    return TokenStatistics(log_prob, correct, sample, len(samples), confidence, expected, spread, odds)


def per_sample(values: Tensor, sample: Tensor, samples: int) -> list[np.ndarray]:
    """``values`` (n,) of tokens, cut into one array for each sample; ``sample`` (n,) in ascending order."""
    counts = torch.bincount(sample, minlength=samples).tolist()
    return [part.numpy() for part in values.split(counts)]
