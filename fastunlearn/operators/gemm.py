"""Linear layers of a pass over the model by the faster matrix product (ops/_gemm.py)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fastunlearn.ops._gemm import HALVES, fast, matrix_units, nt, wide_bmm, wide_nt

__all__ = ["HALVES", "FastLinears", "matrix_units", "nt", "wide_bmm", "wide_nt"]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = nt(x.reshape(-1, x.shape[-1]), weight)
        return (y if bias is None else y.add_(bias)).view(*x.shape[:-1], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g: Tensor):
        x, weight = ctx.saved_tensors
        rows = g.reshape(-1, g.shape[-1])
        gx = nt(rows, weight.t()).view_as(x) if ctx.needs_input_grad[0] else None
        gw = nt(rows.t(), x.reshape(-1, x.shape[-1]).t()) if ctx.needs_input_grad[1] else None
        return gx, gw, rows.sum(0) if ctx.needs_input_grad[2] else None


class FastLinears(TorchFunctionMode):
    """While active, linear layers in float32 on the CPU use :func:`nt`, forward and in their (first) derivative."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is F.linear and not kwargs and all(isinstance(t, Tensor) for t in args[:2]):
            x, weight = args[0], args[1]
            if type(x) is Tensor and weight.dim() == 2 and x.dim() > 1 and x.numel() and fast(x, weight):
                return _Linear.apply(x, weight, args[2] if len(args) > 2 else None)
        return function(*args, **kwargs)
