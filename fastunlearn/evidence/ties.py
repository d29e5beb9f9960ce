"""How many target tokens of a sample a model may put first, where only rounding tells the likeliest ones apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastunlearn.audit._forward import evaluating, target_logits

__all__ = ["possible_counts"]


def possible_counts(
    model: torch.nn.Module, samples: Sequence, *, pad_token_id: int, batch_size: int, limit: float
) -> list[tuple[int, int]]:
    """The fewest and the most target tokens of each sample that another machine may find to be put first.

    A token is in doubt where it and the best of the others lie closer together, in nats, than ``limit`` relative to
    1 + the size of its log-probability, as for a loss, and two steps of the weights' type at the size of its logit: in
    bfloat16 two logits about 20 that are neighbours differ by 0.125.
    """
    step = torch.finfo(next(model.parameters()).dtype).eps
    fewest, most = torch.zeros(len(samples), dtype=torch.int64), torch.zeros(len(samples), dtype=torch.int64)
    with evaluating(model):
        for logits, targets, owner in target_logits(model, samples, pad_token_id=pad_token_id, batch_size=batch_size):
            logits = logits.double()
            picked = logits.gather(1, targets[:, None]).squeeze(1)
            other = logits.scatter(1, targets[:, None], -torch.inf).amax(1)
            log_prob = picked - logits.logsumexp(1)
            doubt = limit * (1 + log_prob.abs()) + 2 * step * picked.abs()
            fewest.index_add_(0, owner, (picked - other > doubt).long().cpu())
            most.index_add_(0, owner, (picked - other >= -doubt).long().cpu())
    return list(zip(fewest.tolist(), most.tolist(), strict=True))
