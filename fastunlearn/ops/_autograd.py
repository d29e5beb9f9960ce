"""The autograd functions of an op, out of its dual kernels: right for every order up to two and every way there.

An op (:class:`DualOp`) maps primals x to outputs y with Jacobian J. Four functions close the circle:

- ``_Forward``       y = f(x).         its jvp is ``_Tangent``, its backward ``_Backward``
- ``_Backward``      J^T h.            its jvp is ``_DualBackward``, its backward ``_Tangent`` and ``_DualBackward``
- ``_Tangent``       J t.              its backward is ``_Backward`` and ``_DualBackward``
- ``_DualBackward``  the derivative of (J^T g) along t, plus J^T h. It has no derivative: that were a third order.

So ``torch.autograd.grad`` twice, ``torch.func.jvp`` of ``grad``, ``grad`` of ``jvp`` and forward-mode AD all reach the
kernels. Streams h, t have a leading axis K. ``torch.func.vmap`` over streams alone becomes K; over anything else
it is a loop. Arguments are flat, because autograd takes nothing else: op, constants (masks, labels: no
derivative), primals, then outputs, tangents and streams as each function says. Outputs that come back as arguments
are kept results, not variables: their derivative is in that of the primals.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from fastunlearn.errors import DerivativeOrderError

Streams = tuple[Tensor | None, ...]


class DualOp:
    """What an op says about itself. Tensors in and out are plain; streams carry K in front."""

    constants = 0  # number of tensors without a derivative
    primals = 1
    outputs = 1  # the first is the result; the others are kept for the derivatives (statistics)

    def forward(self, c: Streams, x: Streams) -> tuple[Tensor, ...]:
        """The outputs."""
        raise NotImplementedError

    def tangent(self, c: Streams, x: Streams, y: Streams, t: Streams) -> tuple[Tensor, ...]:
        """Tangents (K, ...) of the outputs; an entry of t may be None (zero), not all."""
        raise NotImplementedError

    def backward(self, c: Streams, x: Streams, y: Streams, h: Tensor) -> Streams:
        """Adjoints (K, ...) of the primals for h (K, ...) of the first output; None is zero."""
        raise NotImplementedError

    def dual_backward(
        self, c: Streams, x: Streams, t: Streams, y: Streams, yt: Streams, g: Tensor, h: Tensor | None
    ) -> Streams:
        """The derivative of the adjoints of g along t, plus the adjoints of h (K, ...); None is zero."""
        raise NotImplementedError

    def __call__(self, *tensors: Tensor | None) -> Tensor:
        """The first output of constants and primals, with all derivatives."""
        return _Forward.apply(self, *tensors)[0]


def _filled(found: Streams, x: Streams, count: int) -> tuple[Tensor, ...]:
    """Zeros in the place of None: a Function returns tensors."""
    return tuple(
        p.new_zeros((count, *p.shape)) if value is None else value for value, p in zip(found, x, strict=True)
    )


def _lead(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.unsqueeze(0)


def _without_tangents(tensors: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """The primals of dual tensors: a jvp says what the tangent is, and must not take one along itself."""
    return tuple(None if value is None else forward_ad.unpack_dual(value).primal for value in tensors)


def _cut(flat: tuple, *sizes: int) -> list[tuple]:
    # Forward-mode AD hands out zeros without memory, which a kernel cannot read.
    flat = [v.clone() if isinstance(v, Tensor) and v._is_zerotensor() else v for v in flat]
    parts, start = [], 0
    for size in sizes:
        parts.append(tuple(flat[start : start + size]))
        start += size
    return parts


def _sum_over_streams(op: DualOp, c, x, t, y, yt, g) -> tuple[Tensor, ...]:
    """sum_k of the derivative along t_k of the adjoints of g_k."""
    total = None
    for k in range(len(g)):
        one = [None if v is None else v[k : k + 1] for v in (*t, *yt)]
        found = _DualBackward.apply(op, *c, *x, *one[: len(t)], *y, *one[len(t) :], g[k], None)
        total = found if total is None else [a + b for a, b in zip(total, found, strict=True)]
    return tuple(value.squeeze(0) for value in total)


def _vmapped(function: type[Function], first_stream: int, size: int, in_dims: tuple, args: tuple) -> tuple:
    """vmap of ``function``: K times larger where only arguments from ``first_stream`` on are mapped, else a loop."""
    front = [a if d is None or a is None else a.movedim(d, 0) for a, d in zip(args, in_dims, strict=True)]
    if all(d is None for d in in_dims[:first_stream]):
        streams = [
            None if a is None else (a.expand(size, *a.shape) if d is None else a).flatten(0, 1)
            for a, d in zip(front[first_stream:], in_dims[first_stream:], strict=True)
        ]
        found = function.apply(*front[:first_stream], *streams)
        return tuple(f.unflatten(0, (size, -1)) for f in found), (0,) * len(found)
    each = [
        function.apply(*(a if d is None or a is None else a[i] for a, d in zip(front, in_dims, strict=True)))
        for i in range(size)
    ]
    return tuple(torch.stack(parts) for parts in zip(*each, strict=True)), (0,) * len(each[0])


def _save(ctx: Any, op: DualOp, *tensors: Tensor | None) -> None:
    ctx.op = op
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)
    ctx.set_materialize_grads(False)


class _Forward(Function):
    """(op, constants, primals) -> outputs."""

    @staticmethod
    def forward(op, *flat):
        return tuple(op.forward(*_cut(flat, op.constants, op.primals)))

    @staticmethod
    def setup_context(ctx, inputs, output):
        _save(ctx, inputs[0], *inputs[1:], *output)

    @staticmethod
    def backward(ctx, g, *_):
        op = ctx.op
        none = (None,) * (1 + op.constants)
        if g is None:
            return (*none, *(None,) * op.primals)
        return (*none, *(v.squeeze(0) for v in _Backward.apply(op, *ctx.saved_tensors, g.unsqueeze(0))))

    @staticmethod
    def jvp(ctx, _, *tangents):
        op = ctx.op
        streams = [_lead(t) for t in tangents[op.constants :]]
        return tuple(v.squeeze(0) for v in _Tangent.apply(op, *_without_tangents(ctx.saved_tensors), *streams))

    @staticmethod
    def vmap(info, in_dims, *args):
        return _vmapped(_Forward, len(args), info.batch_size, in_dims, args)


class _Backward(Function):
    """(op, constants, primals, outputs, h (K, ...)) -> J^T h (K, ...)."""

    @staticmethod
    def forward(op, *flat):
        c, x, y, (h,) = _cut(flat, op.constants, op.primals, op.outputs, 1)
        return _filled(op.backward(c, x, y, h), x, len(h))

    @staticmethod
    def setup_context(ctx, inputs, output):
        _save(ctx, *inputs)

    @staticmethod
    def backward(ctx, *a):
        op = ctx.op
        c, x, y, (h,) = _cut(ctx.saved_tensors, op.constants, op.primals, op.outputs, 1)
        none = [(None,) * size for size in (1 + op.constants, op.primals, op.outputs)]
        if all(v is None for v in a):
            return (*none[0], *none[1], *none[2], None)
        yt = _Tangent.apply(op, *c, *x, *y, *a)
        gx = _sum_over_streams(op, c, x, a, y, [v.detach() for v in yt], h)
        return (*none[0], *gx, *none[2], yt[0])

    @staticmethod
    def jvp(ctx, _, *tangents):
        op = ctx.op
        c, x, y, (h,) = _cut(_without_tangents(ctx.saved_tensors), op.constants, op.primals, op.outputs, 1)
        _, xt, yt, (ht,) = _cut(tangents, op.constants, op.primals, op.outputs, 1)
        if all(t is None for t in xt):
            return _Backward.apply(op, *c, *x, *y, ht)
        xt = [_lead(t) for t in xt]
        yt = _Tangent.apply(op, *c, *x, *y, *xt) if any(t is None for t in yt) else [_lead(t) for t in yt]
        each = [
            _DualBackward.apply(op, *c, *x, *xt, *y, *yt, h[k], None if ht is None else ht[k : k + 1])
            for k in range(len(h))
        ]
        return each[0] if len(each) == 1 else tuple(torch.cat(parts) for parts in zip(*each, strict=True))

    @staticmethod
    def vmap(info, in_dims, *args):
        return _vmapped(_Backward, len(args) - 1, info.batch_size, in_dims, args)


class _Tangent(Function):
    """(op, constants, primals, outputs, tangents (K, ...)) -> tangents (K, ...) of the outputs."""

    @staticmethod
    def forward(op, *flat):
        return tuple(op.tangent(*_cut(flat, op.constants, op.primals, op.outputs, op.primals)))

    @staticmethod
    def setup_context(ctx, inputs, output):
        _save(ctx, *inputs, *output)

    @staticmethod
    def backward(ctx, g, *_):
        op = ctx.op
        sizes = (op.constants, op.primals, op.outputs, op.primals, op.outputs)
        c, x, y, t, yt = _cut(ctx.saved_tensors, *sizes)
        none = [(None,) * size for size in (1 + op.constants, op.primals, op.outputs)]
        if g is None:
            return (*none[0], *none[1], *none[2], *none[1])
        gt = [None if one is None else v for one, v in zip(t, _Backward.apply(op, *c, *x, *y, g), strict=True)]
        gx = _sum_over_streams(op, c, x, t, y, [v.detach() for v in yt], g)
        return (*none[0], *gx, *none[2], *gt)

    @staticmethod
    def jvp(ctx, *_):
        raise DerivativeOrderError(_ORDER.format("forward-mode over forward-mode AD"))

    @staticmethod
    def vmap(info, in_dims, *args):
        op = args[0]
        return _vmapped(_Tangent, 1 + op.constants + op.primals + op.outputs, info.batch_size, in_dims, args)


class _DualBackward(Function):
    """(op, constants, primals, tangents, outputs, their tangents, g, h) -> the derivative of J^T g, plus J^T h."""

    @staticmethod
    def forward(op, *flat):
        sizes = (op.constants, op.primals, op.primals, op.outputs, op.outputs, 1, 1)
        c, x, t, y, yt, (g,), (h,) = _cut(flat, *sizes)
        count = next(len(v) for v in (*t, h) if v is not None)
        return _filled(op.dual_backward(c, x, t, y, yt, g, h), x, count)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *_):
        raise DerivativeOrderError(_ORDER.format("a third derivative"))

    @staticmethod
    def jvp(ctx, *_):
        raise DerivativeOrderError(_ORDER.format("a third derivative"))

    @staticmethod
    def vmap(info, in_dims, *args):
        # Streams are the tangents, those of the outputs, and h; they do not lie side by side: put them last.
        op = args[0]
        c, x, t, y, yt, g, h = _cut(args[1:], op.constants, op.primals, op.primals, op.outputs, op.outputs, 1, 1)
        dims = _cut(in_dims[1:], op.constants, op.primals, op.primals, op.outputs, op.outputs, 1, 1)
        ordered = (op, *c, *x, *y, *g, *t, *yt, *h)
        ordered_dims = (None, *dims[0], *dims[1], *dims[3], *dims[5], *dims[2], *dims[4], *dims[6])
        fixed = 2 + op.constants + op.primals + op.outputs
        return _vmapped(_Reordered, fixed, info.batch_size, ordered_dims, ordered)


class _Reordered:
    """_DualBackward with the streams last."""

    @staticmethod
    def apply(op, *flat):
        sizes = (op.constants, op.primals, op.outputs, 1, op.primals, op.outputs, 1)
        c, x, y, g, t, yt, h = _cut(flat, *sizes)
        return _DualBackward.apply(op, *c, *x, *t, *y, *yt, *g, *h)


_ORDER = (
    "{} was asked for, and the accelerated ops have two orders with at most one in forward mode: "
    "leave accelerate() or accelerated() for it"
)

