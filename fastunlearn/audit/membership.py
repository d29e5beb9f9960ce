"""Membership inference by loss: can records be told from unseen ones by how well the model predicts them?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastunlearn.errors import InvalidInputError

__all__ = ["auc"]


def _finite(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise InvalidInputError(f"{name}: needs one dimension and at least one loss, got {array.shape}")
    if np.isnan(array).any():
        raise InvalidInputError(f"{name}: holds NaN; the model or the data is broken")
    return array


def auc(member_losses: ArrayLike, non_member_losses: ArrayLike) -> float:
    """Area under the ROC curve of the attack "a low loss means: was trained on" (Yeom et al. 2018).

    The probability that a random member has a lower loss than a random non-member, ties counted half;
    exact. 0.5: the loss tells nothing. 1: every member is found. Below 0.5: the members are predicted
    worse than unseen records, which also tells them apart.
    """
    members = _finite(member_losses, "member_losses")
    others = np.sort(_finite(non_member_losses, "non_member_losses"))
    above = others.size - np.searchsorted(others, members, side="right")
    not_below = others.size - np.searchsorted(others, members, side="left")
    return float((above + not_below).sum() / (2.0 * members.size * others.size))
