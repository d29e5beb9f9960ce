"""Losses of single target tokens, as functions of their logits: what a sample's gradient is the gradient of.

Each takes logits (n, V) of n target positions and the target tokens (n,) int64, and returns (n,) values in the
logits' dtype (at least float32). A sample's loss is the *sum* over its target tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "TokenLoss", "log_likelihood", "log_odds", "negative_log_likelihood", "ranked_log_odds", "softplus_log_odds",
]  # fmt: skip

TokenLoss = Callable[[Tensor, Tensor], Tensor]


def negative_log_likelihood(logits: Tensor, targets: Tensor) -> Tensor:
    """``-log p(target)`` in nats: the loss that language models are trained with."""
    return F.cross_entropy(logits, targets, reduction="none")


def log_likelihood(logits: Tensor, targets: Tensor) -> Tensor:
    """``log p(target)`` in nats, for steps that lower it."""
    return -negative_log_likelihood(logits, targets)


def log_odds(logits: Tensor, targets: Tensor) -> Tensor:
    """``log p(target) - log(1 - p(target))``, from the logits, without loss of digits where p is near 1."""
    others = logits.scatter(1, targets[:, None], -torch.inf)
    return logits.gather(1, targets[:, None]).squeeze(1) - torch.logsumexp(others, 1)


def softplus_log_odds(threshold: float = 0.0) -> TokenLoss:
    """``log(1 + e^(z - threshold))`` with z the log-odds of the target: a *bounded pull* away from it.

    With threshold 0 this is ``-log(1 - p)``. Its gradient fades once z lies below the threshold, so that
    lowering it does not push a token's probability down without end, as gradient ascent on the likelihood does.
    """

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return F.softplus(log_odds(logits, targets) - threshold)

    return loss


def ranked_log_odds(own: Tensor, wanted: Tensor) -> TokenLoss:
    """:func:`softplus_log_odds` with a threshold for each token: the r-th smallest of ``wanted`` (n,) for a token whose
    log-odds are nearest to the r-th smallest of ``own`` (n,). The pull on it fades where its counterpart lies."""
    own, wanted = own.sort().values, wanted.sort().values
    between = (own[1:] + own[:-1]) / 2  # so that a last digit does not change a rank

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        z = log_odds(logits, targets)
        rank = torch.searchsorted(between.to(z), z.detach())
        return F.softplus(z - wanted.to(z)[rank])

    return loss
