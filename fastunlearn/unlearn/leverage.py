"""The leverage of forget records: how much of the curvature that must stay lies along their gradients."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

__all__ = ["at_most", "leverage"]

MOST_COST = 2e10  # multiply-adds above which it is only bounded


def leverage(
    metric: Callable[[], Tensor], gram: Tensor, damping: float, retained: int, *, cost: float
) -> dict[str, float]:
    """``leverage_max`` and ``leverage_sum`` of ``g^T (m F)^-1 g``, from ``metric() = J F^-1 J^T`` (n, n), which takes
    ``cost`` multiply-adds; or :func:`at_most` where that is dear."""
    if cost > MOST_COST:
        return at_most(gram, damping, retained)
    found = metric().diagonal().clamp_min(0) / retained
    return {"leverage_max": found.max().item(), "leverage_sum": found.sum().item()}


def at_most(gram: Tensor, damping: float, retained: int) -> dict[str, float]:
    """``leverage_at_most``: ``|g|^2 / (m damping)`` bounds it, because ``m F >= m damping I``. gram (n, n): J J^T."""
    return {"leverage_at_most": gram.diagonal().max().item() / (retained * damping)}
