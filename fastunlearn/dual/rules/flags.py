"""What autograd would say of a value: whether it needs a gradient, and whether it is a leaf of the graph.

A value of the pass has no graph of autograd's, but models ask (and set the flag, for gradient checkpointing).
"""

from __future__ import annotations

from typing import Any

from ..values import ParameterSlot, UnsupportedOperationError

__all__ = ["RULES", "set_flag"]


def _requires_grad(ctx: Any, func: Any, args: tuple, kwargs: dict) -> bool:
    """It depends on the parameters, so it does."""
    return True


def _is_leaf(ctx: Any, func: Any, args: tuple, kwargs: dict) -> bool:
    """Only a parameter is, as long as nothing was written into it."""
    x = args[0]
    return x.pending is None and isinstance(x.slot, ParameterSlot) and x.owner is None


def set_flag(ctx: Any, func: Any, args: tuple, kwargs: dict) -> Any:
    """``x.requires_grad_()``: as it is already."""
    x, flag = (*args, kwargs.get("requires_grad", True))[:2]
    if not flag:
        raise UnsupportedOperationError(
            "model: requires_grad_(False) on a value that depends on the parameters cannot be followed: detach() it"
        )
    return x


#: Property -> its rule.
RULES = {"requires_grad": _requires_grad, "is_leaf": _is_leaf}
