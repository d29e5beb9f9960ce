"""The output layer, put off until the loss asks for it: see :mod:`.output_layer`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..values import Dual
from . import elementwise, shapes, views
from .activation import activate
from .deferred import defer
from .linear_algebra import dual_linear
from .loss import reduced, usual_cross_entropy
from .output_layer import DeferredLoss, Head, constant_factor, parts, scalar

__all__ = ["DeferredLogits"]


@dataclass(frozen=True)
class DeferredLogits:
    """``outer * tanh(inner * (x W^T + b))``, or without tanh ``inner * (x W^T + b)``, not computed yet."""

    x: Any
    weight: Any
    bias: Any
    dtype: torch.dtype
    inner: float = 1.0
    outer: float | None = None
    strides: tuple[int, ...] | None = None  # of a slice; None: contiguous

    def value(self) -> Dual:
        """As a value of the pass."""
        x, rows = parts(self.x)[0], parts(self.weight)[0].shape[0]
        return defer((*x.shape[:-1], rows), self.dtype, x.device, self, self.strides)

    def copied(self) -> Dual:
        """As a value that shares no memory with this one."""
        return replace(self, strides=None).value()

    def force(self, ctx: Any) -> Dual:
        """The whole logits."""
        z = dual_linear(ctx, self.x, self.weight, self.bias)
        if self.inner != 1.0:
            z = elementwise.multiply(ctx, torch.mul, (z, self.inner), {})
        if self.outer is not None:
            z = ctx.forced(activate(z, "tanh"))
            z = elementwise.multiply(ctx, torch.mul, (z, self.outer), {})
        z = shapes.cast(ctx, torch.Tensor.to, (z, self.dtype), {})
        if self.strides is None:
            return z
        # Laid out as the model's own slice is: whether what it makes of it shares memory hangs on that.
        primal = torch.empty_strided(z.primal.shape, self.strides, dtype=z.primal.dtype, device=z.primal.device)
        return Dual(primal.copy_(z.primal), z.tangent, z.slot)

    def met(self, ctx: Any, name: str, args: tuple, kwargs: dict) -> Any:
        """What a model does between its output layer and the loss."""
        if name == "cross_entropy":
            return self._cross_entropy(ctx, args, kwargs)
        if kwargs:
            return None
        factor = constant_factor(name, args)
        new = replace(self, strides=None)
        if factor is not None:
            if self.outer is None:
                return replace(new, inner=self.inner * float(factor)).value()
            return replace(new, outer=self.outer * float(factor)).value()
        if name == "tanh" and self.outer is None:
            return replace(new, outer=1.0).value()
        if name == "float" or (name == "to" and len(args) == 2 and isinstance(args[1], torch.dtype)):
            dtype = torch.float32 if name == "float" else args[1]
            return args[0] if dtype == self.dtype else replace(new, dtype=dtype).value()
        if name == "contiguous":
            return args[0] if self.strides is None else new.value()
        if name == "to" and isinstance(args[1], torch.device):
            return args[0]
        return self._moved(ctx, name, args)

    def _moved(self, ctx: Any, name: str, args: tuple) -> Any:
        """Slices and shapes of the leading axes: those of x."""
        rows, width = parts(self.weight)[0].shape
        if name in ("view", "reshape", "flatten"):
            layout = self._layout(name, args)
            if not layout.ndim or layout.shape[-1] != rows or layout.dtype != self.dtype:
                return None
            return self._with(ctx, name, args, torch.Tensor.reshape, (*layout.shape[:-1], width))
        if name == "__getitem__":
            where = args[1] if isinstance(args[1], tuple) else (args[1],)
            whole = slice(None)
            axes = len([i for i in where if i is not Ellipsis])
            ndim = parts(self.x)[0].ndim
            if any(not (i is Ellipsis or isinstance(i, slice)) for i in where):
                return None
            touches_last = axes == ndim or (Ellipsis in where and where[-1] is not Ellipsis)
            if touches_last and where[-1] != whole:
                return None
            return self._with(ctx, name, args, torch.Tensor.__getitem__, where)
        return None

    def _layout(self, name: str, args: tuple) -> Tensor:
        """What the function makes of the logits, without data: their shape, strides, and whether it is a view."""
        like = torch.empty_strided(args[0].shape, args[0].stride(), dtype=self.dtype, device="meta")
        return getattr(torch.Tensor, name)(like, *args[1:])

    def _with(self, ctx: Any, name: str, args: tuple, func: Any, where: tuple) -> Dual:
        if not isinstance(self.x, Dual):
            x = func(self.x, where)
        elif func is torch.Tensor.__getitem__:
            x = shapes.index(ctx, func, (self.x, where), {})
        else:
            x = shapes.reshaping(ctx, func, (self.x, where), {})
        layout = self._layout(name, args)
        strides = None if layout.is_contiguous() else layout.stride()
        moved = replace(self, x=x, strides=strides).value()
        if layout._is_view():
            views.set_root(ctx, moved, args[0], lambda t: getattr(torch.Tensor, name)(t, *args[1:]))
        return moved

    def _cross_entropy(self, ctx: Any, args: tuple, kwargs: dict) -> Any:
        call = usual_cross_entropy(args, kwargs)
        ndim = parts(self.x)[0].ndim
        if call is None or ndim != 2:
            return None
        labels, valid, reduction = call
        softcap, scale = None, self.inner
        if self.outer is not None:
            softcap, scale = self.outer, self.inner * self.outer
        head = Head(self.x, self.weight, self.bias, labels, softcap, scale)
        ctx.tokens.append((head, labels))
        if reduction == "none":
            return head.token_losses(ctx)
        dtype = torch.promote_types(self.dtype, torch.float32)
        return scalar(DeferredLoss(head, reduced(valid, reduction, dtype), 1.0))
