"""The generic rule: any differentiable torch function, by torch's own derivatives.

Forward: the tangents by forward AD, one at a time; where torch has no forward formula, by the double-vjp trick
(``J t`` is the derivative, with respect to u, of ``<t, J^T u>``). Reverse: with ``J^T g`` kept differentiable,

    hx_k = J^T h_k + d/dx <J^T g, xt_k>

so one evaluation, one vjp and one derivative of both serve every function whose double backward torch has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._pytree import tree_flatten, tree_unflatten

from fastunlearn.errors import FastUnlearnError

from ..values import Dual, Slot, UnsupportedOperationError
from .random import random_state, refuse_random

__all__ = ["apply_generic", "call_function", "differentiable"]


def differentiable(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.dtype.is_floating_point or value.dtype.is_complex)


def _double_vjp(function: Callable, primals: list[Tensor], tangents: list[Tensor | None]) -> tuple[list, list]:
    """Values and one tangent of ``function`` without forward AD."""
    with torch.enable_grad():
        leaves = [p.detach().requires_grad_() for p in primals]
        flat = function(leaves)
        smooth = [y for y in flat if differentiable(y) and y.requires_grad]
        dummies = [torch.zeros_like(y, requires_grad=True) for y in smooth]
        pulled = torch.autograd.grad(smooth, leaves, dummies, create_graph=True, allow_unused=True)
        pairs = [(p, t) for p, t in zip(pulled, tangents, strict=True) if p is not None and t is not None]
        pairs = [(p, t) for p, t in pairs if p.requires_grad]
        pushed: list[Tensor | None] = [None] * len(dummies)
        if pairs:
            pushed = list(torch.autograd.grad([p for p, _ in pairs], dummies, [t for _, t in pairs], allow_unused=True))
    given = iter(pushed)
    found = [next(given) if differentiable(y) and y.requires_grad else None for y in flat]
    return [y.detach() if isinstance(y, Tensor) else y for y in flat], found


def _solid(tensor: Tensor) -> Tensor:
    """``tensor``, without elements that share one place: forward AD keeps a tangent in its primal's layout."""
    if 0 in tensor.stride() and any(s == 0 and n > 1 for s, n in zip(tensor.stride(), tensor.shape, strict=True)):
        return tensor.contiguous()
    return tensor.detach()


def _forward_ad(function: Callable, primals: list[Tensor], tangents: list[Tensor | None]) -> tuple[list, list]:
    """Values and one tangent of ``function`` by forward AD."""
    with forward_ad.dual_level():
        pairs = zip(primals, tangents, strict=True)
        inputs = [p if t is None else forward_ad.make_dual(_solid(p), t) for p, t in pairs]
        values, found = [], []
        for y in function(inputs):
            if not differentiable(y):
                values.append(y)
                found.append(None)
                continue
            primal, tangent = forward_ad.unpack_dual(y)
            values.append(primal.detach())
            found.append(None if tangent is None else tangent.detach())
    return values, found


def _dropped(function: Callable, primals: list[Tensor], values: list, found: list) -> bool:
    """Whether forward AD gave a result no tangent that has a gradient: operators of torch.library have no forward
    formula and say nothing."""
    if all(t is not None or not differentiable(y) for y, t in zip(values, found, strict=True)):
        return False
    with torch.enable_grad():
        flat = function([p.detach().requires_grad_() for p in primals])
    return any(t is None and differentiable(y) and y.requires_grad for y, t in zip(flat, found, strict=True))


def push_forward(function: Callable, primals: list[Tensor], tangents: list[Tensor | None]) -> tuple[list, list]:
    """Flat values of ``function`` and, for each, its tangents (K, *shape) or None."""
    given = [t for t in tangents if t is not None]
    if not given:
        return list(function(primals)), []
    count = given[0].shape[0]
    way = _forward_ad
    streams: list[list] = []
    values: list = []
    for k in range(count):
        one = [None if t is None else t[k] for t in tangents]
        try:
            values, found = way(function, primals, one)
            if way is _forward_ad and k == 0 and _dropped(function, primals, values, found):
                raise NotImplementedError
        except NotImplementedError:
            if way is _double_vjp:
                raise
            way = _double_vjp
            values, found = way(function, primals, one)
        streams.append(found)
    stacked = []
    for tangent in zip(*streams, strict=True):
        if all(t is None for t in tangent):
            stacked.append(None)
            continue
        like = next(t for t in tangent if t is not None)
        stacked.append(torch.stack([torch.zeros_like(like) if t is None else t for t in tangent]))
    return values, stacked


def pull_back(
    function: Callable,
    inputs: list[Dual],
    adjoints: list[tuple[Tensor | None, Tensor | None]],
    positions: list[int],
) -> None:
    """The reverse sweep of ``function``: ``adjoints`` belong to the results at ``positions``."""
    with torch.enable_grad():
        leaves = [x.primal.detach().requires_grad_() for x in inputs]
        flat = function(leaves)
        rows = [(flat[p], g, h) for p, (g, h) in zip(positions, adjoints, strict=True) if flat[p].requires_grad]
        with_g = [(y, g.to(y.dtype)) for y, g, _ in rows if g is not None]
        with_h = [(y, h.to(y.dtype)) for y, _, h in rows if h is not None]
        pulled: list[Tensor | None] = [None] * len(leaves)
        curved: list[tuple[Tensor, Tensor]] = []
        if with_g:
            ys, gs = [y for y, _ in with_g], [g for _, g in with_g]
            pulled = list(torch.autograd.grad(ys, leaves, gs, create_graph=True, allow_unused=True))
            pairs = zip(pulled, (x.tangent for x in inputs), strict=True)
            curved = [(p, t) for p, t in pairs if p is not None and t is not None and p.requires_grad]
        heads = [p for p, _ in curved] + [y for y, _ in with_h]
        count = curved[0][1].shape[0] if curved else (with_h[0][1].shape[0] if with_h else 0)
        streams = []
        for k in range(count if heads else 0):
            seeds = [t[k] for _, t in curved] + [h[k] for _, h in with_h]
            streams.append(torch.autograd.grad(heads, leaves, seeds, allow_unused=True, retain_graph=k + 1 < count))
    for i, x in enumerate(inputs):
        g = None if pulled[i] is None else pulled[i].detach()
        parts = [s[i] for s in streams]
        h = None
        if any(p is not None for p in parts):
            h = torch.stack([torch.zeros_like(x.primal) if p is None else p for p in parts])
        if g is not None or h is not None:
            x.slot.add(g, h)


def _refuse_missing(function: Callable, error: Exception) -> None:
    """Raises UnsupportedOperationError where ``error`` says that PyTorch has no derivative of a derivative."""
    if "not implemented" in str(error) and not isinstance(error, FastUnlearnError):
        name = getattr(function, "__name__", "a function")
        raise UnsupportedOperationError(
            f"model: {name} has no second derivative in PyTorch ({str(error).splitlines()[0]}): write it in other "
            f"functions; where its result only picks indices, detach() what it is given"
        ) from error


def apply_generic(ctx: Any, function: Callable, inputs: list[Dual]) -> list:
    """The flat results of ``function(list of tensors) -> flat list``; those that depend on ``inputs`` are Duals."""
    try:
        values, tangents = push_forward(function, [x.primal for x in inputs], [x.tangent for x in inputs])
    except RuntimeError as error:  # NotImplementedError is one
        _refuse_missing(function, error)
        raise
    carried = bool(tangents)
    results, slots, positions = [], [], []
    for i, y in enumerate(values):
        if not differentiable(y) or (carried and tangents[i] is None):
            results.append(y)
            continue
        slot = ctx.new_slot()
        results.append(Dual(y, tangents[i] if carried else None, slot))
        slots.append(slot)
        positions.append(i)

    def backward(adjoints: list) -> None:
        try:
            pull_back(function, inputs, adjoints, positions)
        except RuntimeError as error:
            _refuse_missing(function, error)
            raise

    if ctx.tape is not None and slots:
        ctx.tape.append(tuple(slots), backward)
    return results


def call_function(ctx: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """``func(*args, **kwargs)``, where some of the (nested) arguments are Duals, by the generic rule."""
    flat, spec = tree_flatten((args, kwargs))
    places = [i for i, a in enumerate(flat) if isinstance(a, Dual)]
    inputs: list[Dual] = []
    index: dict[Slot, int] = {}
    source = []
    for i in places:  # the same value given twice is one input
        key = (id(flat[i].primal), id(flat[i].slot))
        if key not in index:
            index[key] = len(inputs)
            inputs.append(flat[i])
        source.append(index[key])
    template = [None if isinstance(a, Dual) else a for a in flat]
    result_spec: list = []

    def function(tensors: list[Tensor]) -> list:
        filled = list(template)
        for place, s in zip(places, source, strict=True):
            filled[place] = tensors[s]
        new_args, new_kwargs = tree_unflatten(filled, spec)
        leaves, shape = tree_flatten(func(*new_args, **new_kwargs))
        result_spec[:] = [shape]
        return leaves

    function.__name__ = getattr(func, "__name__", str(func))
    before = random_state(inputs[0].primal) if inputs else []
    results = apply_generic(ctx, function, inputs)
    if before:
        refuse_random(func, function, [x.primal for x in inputs], before)
    return tree_unflatten(results, result_spec[0])
