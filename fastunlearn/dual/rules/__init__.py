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
from . import (
    activation,
    attention,
    deferred,
    dropout,
    elementwise,
    embedding,
    flags,
    grouped,
    in_place,
    linear_algebra,
    loss,
    norm,
    precision,
    random,
    shapes,
    views,
)
from .generic import call_function
from .names import (
    ALIKE,
    ASKED,
    CASTS,
    LINEAR,
    LINEAR_VIEWS,
    PLAIN,
    PLAIN_PROPERTIES,
    PROPERTIES,
    REFUSED,
    RESHAPES,
)

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


def _kinds(*kinds: str) -> Callable:
    """The kind of an activation with no options."""
    return lambda *args, **kwargs: None if args or kwargs else kinds[0]


def _gelu(approximate: str = "none") -> str | None:
    return {"none": "gelu", "tanh": "gelu_tanh"}.get(approximate)


def _softplus(beta: float = 1.0, threshold: float = 20.0) -> str | None:
    return "softplus" if beta == 1.0 and threshold == 20.0 else None


_ACT = activation.activation_rule
_SPLIT, _INDEX = views.viewing(shapes.split), views.viewing(shapes.index)
_MATMUL, _CUT = linear_algebra.matmul, loss.on_cut_input

#: Functions with a rule of their own.
OWN: dict[Callable, Callable] = {
    F.linear: linear_algebra.linear,
    torch.addmm: linear_algebra.addmm,
    torch.matmul: _MATMUL,
    torch.Tensor.matmul: _MATMUL,
    torch.Tensor.__matmul__: _MATMUL,
    torch.bmm: _MATMUL,
    torch.Tensor.bmm: _MATMUL,
    torch.mm: _MATMUL,
    torch.Tensor.mm: _MATMUL,
    F.scaled_dot_product_attention: attention.attention,
    F.multi_head_attention_forward: attention.unfused,
    F.embedding: embedding.embedding,
    F.layer_norm: norm.layer_norm,
    F.rms_norm: norm.rms_norm,
    F.silu: _ACT(_kinds("silu")),
    F.gelu: _ACT(_gelu),
    F.relu: _ACT(_kinds("relu")),
    F.softplus: _ACT(_softplus),
    torch.relu: _ACT(_kinds("relu")),
    torch.sigmoid: _ACT(_kinds("sigmoid")),
    torch.tanh: _ACT(_kinds("tanh")),
    torch.Tensor.sigmoid: _ACT(_kinds("sigmoid")),
    torch.Tensor.tanh: _ACT(_kinds("tanh")),
    torch._grouped_mm: grouped.grouped_mm,
    torch.cat: shapes.concatenate,
    torch.concat: shapes.concatenate,
    torch.chunk: _SPLIT,
    torch.split: _SPLIT,
    torch.Tensor.chunk: _SPLIT,
    torch.Tensor.split: _SPLIT,
    torch.Tensor.__getitem__: _INDEX,
    F.dropout: dropout.dropout,
    F.alpha_dropout: dropout.dropout,
    F.dropout1d: dropout.dropout,
    F.dropout2d: dropout.dropout,
    F.feature_alpha_dropout: dropout.dropout,
    torch.dropout: dropout.dropout,
    F.cross_entropy: loss.cross_entropy,
    F.log_softmax: _CUT,
    torch.log_softmax: _CUT,
    torch.Tensor.log_softmax: _CUT,
    F.mse_loss: _CUT,
    F.binary_cross_entropy_with_logits: _CUT,
}
if hasattr(F, "grouped_mm"):
    OWN[F.grouped_mm] = grouped.grouped_mm
_BY_NAME: dict[str, Callable] = {
    **dict.fromkeys(("add", "__add__", "__radd__"), elementwise.add),
    **dict.fromkeys(("sub", "__sub__"), elementwise.subtract),
    **dict.fromkeys(("mul", "__mul__", "__rmul__"), elementwise.multiply),
    **dict.fromkeys(("div", "true_divide", "__truediv__"), elementwise.divide),
    **dict.fromkeys(("neg", "__neg__"), elementwise.negative),
    **dict.fromkeys(RESHAPES, views.viewing(shapes.reshaping)),
    **dict.fromkeys(CASTS, views.viewing(shapes.cast)),
    **dict.fromkeys(LINEAR_VIEWS, views.viewing(shapes.linear_map)),
    **dict.fromkeys(LINEAR, shapes.linear_map),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), views.viewing(shapes.transpose)),
    "expand": views.viewing(shapes.expand),
    "contiguous": views.viewing(shapes.contiguous),
}
_found: dict[Callable, tuple[Rule, bool, bool, Callable | None]] = {}


def _name(func: Callable) -> str:
    return getattr(func, "__name__", str(func))


def _property_rule(func: Callable) -> Callable:
    name = getattr(getattr(func, "__self__", None), "__name__", "")
    if _name(func) == "__set__":
        return _refused
    if name in flags.RULES:
        return flags.RULES[name]
    if name in PROPERTIES:
        return on_wrapper
    if name in PLAIN_PROPERTIES:
        return on_primal
    return views.viewing(shapes.linear_map) if name in LINEAR_VIEWS else call_function


def _operator_rule(func: Any) -> Callable:
    """``torch.ops.library.name``: its name says nothing about what it is, its schema whether it writes."""
    each = [func] if isinstance(func, torch._ops.OpOverload) else [getattr(func, name) for name in func.overloads()]
    for operator in each:
        written = [i for i, a in enumerate(operator._schema.arguments) if a.is_write and not a.is_out]
        if written:
            return in_place.apply_in_place if written == [0] and operator.namespace == "aten" else _refused
    return views.apply_view


def _lookup(func: Callable) -> Callable:
    if isinstance(func, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return _operator_rule(func)
    own = OWN.get(func)
    if own is not None:
        return own
    name = _name(func)
    if name in ("__get__", "__set__", "__delete__"):
        return _property_rule(func)
    if name == "requires_grad_":
        return flags.set_flag
    for names, rule in ((ASKED, on_wrapper), (PLAIN, on_primal), (REFUSED, _refused), (random.RANDOM, random.sampling)):
        if name in names:
            return rule
    if in_place.writes(name):
        return in_place.apply_in_place
    if name in _BY_NAME and getattr(func, "__module__", None) != "torch.nn.functional":
        return _BY_NAME[name]
    return views.apply_view


def _random(func: Callable, inner: Rule) -> Callable | None:
    """What refuses a call that draws at random, also of constants alone, by (func, args, kwargs)."""
    if inner is dropout.dropout:
        return dropout.refuse_dropout
    return random.refuse_draw if _name(func) in random.DRAWING else None


def find_rule(func: Callable) -> tuple[Rule, bool, bool, Callable | None]:
    """The rule of a torch function; whether values that were put off must be computed for it first; whether it has a
    derivative; and what refuses a call of it that draws at random, None where it never does."""
    found = _found.get(func)
    if found is None:
        inner = _lookup(func)
        refuse = _random(func, inner)
        into_first = inner is in_place.apply_in_place
        by_place = inner is not views.apply_view  # rules of one value take it as args[0], also where it has a name
        asked = inner in (on_wrapper, flags.set_flag, *flags.RULES.values())  # of values that were put off, too
        always, force = asked or inner is on_primal, not asked
        if _name(func) in deferred.ASKING:
            inner, force = deferred.accepting(_name(func), inner), False
        if _name(func) in CASTS:
            inner = precision.keeping_casts(inner)
        elif not always:
            inner = precision.keeping_dtype(inner, _name(func) in ALIKE)

        def rule(ctx: Any, func: Callable, args: tuple, kwargs: dict, recording: bool) -> Any:
            if not (recording or always):  # inside torch.no_grad() the model asks for a constant
                args, kwargs = ctx.lookup(args, True), ctx.lookup(kwargs, True)
                unseen = into_first and isinstance(args[0], Dual)
                return (in_place.apply_unseen if unseen else on_primal)(ctx, func, args, kwargs)
            if kwargs:
                if by_place and not args and "input" in kwargs:
                    args, kwargs = (kwargs["input"],), {k: v for k, v in kwargs.items() if k != "input"}
                if kwargs.get("out") is not None:
                    raise UnsupportedOperationError(f"model: {_name(func)}(out=...) cannot be followed: drop out=")
                if kwargs.get("inplace"):
                    return in_place.apply_inplace_flag(ctx, inner, func, args, kwargs)
            return inner(ctx, func, args, kwargs)

        found = _found[func] = (rule, force, not always, refuse)
    return found
