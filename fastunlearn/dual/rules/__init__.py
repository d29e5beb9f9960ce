"""Which rule serves which torch function.

A rule is ``rule(ctx, func, args, kwargs) -> result``; ``ctx`` is the running :class:`~fastunlearn.dual.mode.DualMode`.
Functions without a rule of their own go to the generic one; in-place functions are done out of place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from ..values import Dual, UnsupportedOperationError
from . import attention, embedding, in_place, loss, views
from .generic import call_function
from .names import ASKED, PLAIN, PLAIN_PROPERTIES, PROPERTIES, REFUSED, VIEWS

__all__ = ["find_rule"]

Rule = Callable[[Any, Callable, tuple, dict, bool], Any]


def on_wrapper(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """Questions about shape, dtype and place: the wrapper knows the answer."""
    return func(*args, **kwargs)


def _primal(value: Any) -> Any:
    return value.primal if isinstance(value, Dual) else value


def on_primal(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """Functions without a derivative (comparisons, indices, detached values): a plain result."""
    return func(*tree_map(_primal, args), **tree_map(_primal, kwargs))


def _refused(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    raise UnsupportedOperationError(
        f"model: {_name(func)} on a value that depends on the parameters cannot be followed by a dual pass"
    )


#: Functions with a rule of their own.
_OWN: dict[Callable, Callable] = {
    F.scaled_dot_product_attention: attention.unfused,
    F.multi_head_attention_forward: attention.unfused,
    F.embedding: embedding.embedding,
    F.cross_entropy: loss.cross_entropy,
    F.log_softmax: loss.on_cut_input,
    torch.log_softmax: loss.on_cut_input,
    torch.Tensor.log_softmax: loss.on_cut_input,
    F.mse_loss: loss.on_cut_input,
    F.binary_cross_entropy_with_logits: loss.on_cut_input,
}

_found: dict[Callable, Rule] = {}


def _name(func: Callable) -> str:
    return getattr(func, "__name__", str(func))


def _property_rule(func: Callable) -> Callable:
    name = getattr(getattr(func, "__self__", None), "__name__", "")
    if _name(func) == "__set__":
        return _refused
    if name in PROPERTIES:
        return on_wrapper
    if name in PLAIN_PROPERTIES:
        return on_primal
    return views.apply_view if name in VIEWS else call_function


def _lookup(func: Callable) -> Callable:
    own = _OWN.get(func)
    if own is not None:
        return own
    name = _name(func)
    if name in ("__get__", "__set__", "__delete__"):
        return _property_rule(func)
    if name in ASKED:
        return on_wrapper
    if name in PLAIN:
        return on_primal
    if name in REFUSED:
        return _refused
    if name in in_place.OPERATORS or (name.endswith("_") and not name.endswith("__")):
        return in_place.apply_in_place
    if name in VIEWS:
        return views.apply_view
    return call_function


def find_rule(func: Callable) -> Rule:
    """The rule of a torch function."""
    rule = _found.get(func)
    if rule is None:
        inner = _lookup(func)
        always = inner in (on_wrapper, on_primal)

        def rule(ctx: Any, func: Callable, args: tuple, kwargs: dict, recording: bool) -> Any:
            if not (recording or always):  # inside torch.no_grad() the model asks for a constant
                return on_primal(ctx, func, args, kwargs)
            if kwargs:
                if kwargs.get("out") is not None:
                    raise UnsupportedOperationError(f"model: {_name(func)}(out=...) cannot be followed: drop out=")
                if kwargs.get("inplace"):
                    return in_place.apply_inplace_flag(ctx, func, args, kwargs)
            return inner(ctx, func, args, kwargs)

        _found[func] = rule
    return rule
