"""Loss and accuracy of a model on encoded samples, token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastunlearn.audit._forward import check_samples, evaluating, target_logits

if TYPE_CHECKING:
    from fastunlearn.data.encode import Encoded

__all__ = ["TokenScores", "token_scores"]


@dataclass(frozen=True)
class TokenScores:
    """The scores of n target tokens of m samples, in the order of the samples. All tensors on the CPU.

    ``log_prob`` (n,) float64, natural logarithm; ``correct`` (n,) bool, whether the most likely token is the
    target; ``sample`` (n,) int64, the index of the token's sample; ``samples``: m.
    """

    log_prob: Tensor
    correct: Tensor
    sample: Tensor
    samples: int

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood over all target tokens, in nats."""
        return float(-self.log_prob.mean())

    @property
    def perplexity(self) -> float:
        """exp(loss); infinity where that is beyond the range of a float."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf

    @property
    def accuracy(self) -> float:
        """The share of target tokens that the model puts first, 0 to 1."""
        return float(self.correct.double().mean())

    @property
    def clamped_log_odds(self) -> Tensor:
        """(n,) float64: ``log p - log(1 - p)`` of each target token; at most 16, where p rounds to 1."""
        sure = self.log_prob.clamp_max(-1e-7)
        return sure - torch.log(-torch.expm1(sure))

    @property
    def sample_log_probs(self) -> Tensor:
        """(m,) float64: log-probability of each sample's targets together."""
        return torch.zeros(self.samples, dtype=torch.float64).index_add_(0, self.sample, self.log_prob)

    @property
    def sample_losses(self) -> Tensor:
        """(m,) float64: mean loss per target token of each sample, in nats."""
        return -self.sample_log_probs / torch.bincount(self.sample, minlength=self.samples)


def token_scores(
    model: torch.nn.Module, samples: Sequence[Encoded], *, pad_token_id: int, batch_size: int = 64
) -> TokenScores:
    """Score every target token of ``samples`` under ``model`` (evaluation mode, no gradients).

    Runs in batches of at most ``batch_size`` samples, fewer where the logits would be large.
    Raises InvalidInputError for no samples, a sample without a target, or NaN logits.
    """
    samples = check_samples(samples)
    log_probs, correct, owners = [], [], []
    with evaluating(model):
        for logits, targets, owner in target_logits(
            model, samples, pad_token_id=pad_token_id, batch_size=batch_size
        ):
            picked = logits.gather(1, targets[:, None]).squeeze(1).double()
            log_probs.append((picked - logits.logsumexp(1).double()).cpu())
            correct.append((logits.argmax(1) == targets).cpu())
            owners.append(owner)
    owner = torch.cat(owners)
    order = torch.argsort(owner, stable=True)
    return TokenScores(torch.cat(log_probs)[order], torch.cat(correct)[order], owner[order], len(samples))
