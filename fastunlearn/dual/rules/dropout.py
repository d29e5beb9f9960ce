"""Dropout: nothing in evaluation, refused in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastunlearn.errors import InvalidInputError

__all__ = ["dropout", "refuse_dropout"]


def refuse_dropout(func: Callable, args: tuple, kwargs: dict) -> None:
    """Raises InvalidInputError where ``func(input, p, training)`` drops out."""
    training = kwargs.get("training", kwargs.get("train", args[2] if len(args) > 2 else True))
    p = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
    if training and p > 0:
        raise InvalidInputError(
            f"model: {func.__name__} drops out with p={p}, so the loss is random and has no Hessian: call model.eval()"
        )


def dropout(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``F.dropout`` and its kin, ``torch.dropout``, where they do nothing."""
    return args[0] if args else kwargs["input"]
