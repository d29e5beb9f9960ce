"""The losses of single target tokens, by sequence of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops._recording import recording

from .mode import DualMode

__all__ = ["only_tokens", "spread"]

_IGNORED = -100


def only_tokens(mode: DualMode, batch: Any) -> tuple[Any, Tensor]:
    """The losses of the pass's one call of F.cross_entropy, flat, and its labels, by sequence (B, S').

    Raises InvalidInputError where there are several calls, or where the labels of that call are not those of the batch
    row by row: then nobody knows which sequence a loss belongs to.
    """
    if len(mode.tokens) != 1:
        raise InvalidInputError(
            f"loss: single tokens are seen in its one call of F.cross_entropy; it has {len(mode.tokens)} calls"
        )
    losses, labels = mode.tokens[0]
    given = _labels(batch)
    rows = given.shape[0]
    if rows == 0 or labels.numel() % rows or not _same(labels.view(rows, -1), given[:, 1:]):
        raise InvalidInputError(
            f"loss: the {labels.numel()} labels in its call of F.cross_entropy are not those of the batch's {rows} "
            f"sequences, row by row (labels[:, 1:], flattened), so it is unknown which sequence a loss belongs to: "
            f"take F.cross_entropy over all places, and let labels of -100 say which of them are no targets"
        )
    return losses, labels.view(rows, -1)


def spread(token_weights: Tensor, lead: tuple[int, ...], labels: Tensor) -> Tensor:
    """Weights that broadcast to (*lead, B, S'), the last two of them the labels' shape, as (*lead, N)."""
    wanted = (*lead, *labels.shape)
    try:
        return token_weights.expand(wanted).reshape(*lead, -1)
    except RuntimeError as error:
        raise InvalidInputError(
            f"token_weights: shape {tuple(token_weights.shape)} does not broadcast to {wanted} (see token_jvp)"
        ) from error


def _labels(batch: Any) -> Tensor:
    """The batch's labels (B, S); where it has none, its tokens, which a loss of the user's then predicts."""
    values = batch if isinstance(batch, Mapping) else {"input_ids": batch}
    found = values.get("labels")
    found = values.get("input_ids") if found is None else found
    if not isinstance(found, Tensor) or found.ndim != 2:
        raise InvalidInputError("batch: to tell its sequences apart it needs 'labels' (sequences, tokens)")
    return found


def _same(seen: Tensor, given: Tensor) -> bool:
    """Whether each row has the same targets in the same order. Places that are no targets may be more or fewer: models
    put one at the end of a row in place of a shift, or a prompt of their own in front."""
    if recording(seen):  # nothing can be read now; the warm-up before has seen that it is so
        return True
    given = given.to(seen.device)
    targets, wanted = seen != _IGNORED, given != _IGNORED
    return torch.equal(targets.sum(1), wanted.sum(1)) and torch.equal(seen[targets], given[wanted].to(seen.dtype))
