"""The Gauss-Newton matrix of cross-entropy as explicit rows: one for each target position and each class.

For one target position with probabilities p over V classes the Hessian of the loss in the logits is
``diag(p) - p p^T = sum_v p_v (e_v - p)(e_v - p)^T``, and ``(p - e_v)^T J`` is the gradient of ``-log p_v``. So the
Gauss-Newton matrix is exactly ``sum over positions and classes of p_v g_v g_v^T``: each class is a label of its own,
with weight ``sqrt(p_v)``. V rows for each target token: for small models, and as the truth that samples approach.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastunlearn.data.encode import IGNORE
from fastunlearn.errors import InvalidInputError

from .model_state import evaluation
from .samples import Sample
from .targets import make_batch, target_logits

__all__ = ["gauss_newton_rows"]

MOST_ROWS = 20_000  # their Gram in float64 takes 3.2 GB


@torch.no_grad()
def gauss_newton_rows(
    model: nn.Module, samples: Sequence[Sample], *, pad_token_id: int
) -> tuple[list[Sample], Tensor, list[int]]:
    """Samples with one label each and their weights (rows,) float64, whose gradients are the rows above, and the
    number in ``samples`` of the sample that each row comes from.

    Raises InvalidInputError where there would be more than MOST_ROWS.
    """
    with evaluation(model):
        vocabulary = target_logits(model, make_batch(model, samples[:1], pad_token_id)).logits.shape[1]
    targets = sum(int((s.labels[1:] != IGNORE).sum()) for s in samples)
    if targets * vocabulary > MOST_ROWS:
        raise InvalidInputError(
            f"kind='ggn' needs {targets} target tokens x {vocabulary} classes = {targets * vocabulary} rows, more than "
            f"{MOST_ROWS}: use kind='sampled' (its mean is the same matrix), or nystrom() on the GGN operator"
        )
    rows: list[Sample] = []
    weights, owners = [], []
    with evaluation(model):
        for number, sample in enumerate(samples):
            found = target_logits(model, make_batch(model, [sample], pad_token_id))
            roots = found.logits.double().softmax(1).sqrt().cpu()
            places = (torch.nonzero(sample.labels[1:] != IGNORE).squeeze(1) + 1).tolist()
            for place, root in zip(places, roots, strict=True):
                for token in range(vocabulary):
                    labels = torch.full_like(sample.labels, IGNORE)
                    labels[place] = token
                    rows.append(sample._replace(labels=labels))
                    owners.append(number)
                weights.append(root)
    if not rows:
        raise InvalidInputError("batches: no sample has a target token, so there is no curvature")
    return rows, torch.cat(weights), owners
