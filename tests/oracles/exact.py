"""Float64 that stays float64.

Models of transformers round to float32 in places (norms, softmax of eager attention, the loss) even where their weights
are float64. A reference for relative errors of 1e-10 must not. In ``with Exact():`` such down-casts of values that
depend on the parameters are left out, and every SDPA call takes the plain path, which is twice differentiable.
Constants (rotary angles, masks) are computed as the model computes them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

_CASTS = {Tensor.float, Tensor.half, Tensor.bfloat16}


def _kept(tensor: object) -> bool:
    return isinstance(tensor, Tensor) and tensor.dtype == torch.float64 and tensor.requires_grad


class _NoDownCasts(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if args and _kept(args[0]):
            if func in _CASTS:
                return args[0]
            if func in (Tensor.to, Tensor.type, Tensor.type_as):
                return args[0]  # one device, so a move can only be a cast
            if kwargs.get("dtype") in (torch.float32, torch.bfloat16, torch.float16):
                kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


class Exact:
    """The context described above."""

    def __enter__(self) -> Exact:
        self._stack = [torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), _NoDownCasts()]
        for context in self._stack:
            context.__enter__()
        return self

    def __exit__(self, *error) -> None:
        for context in reversed(self._stack):
            context.__exit__(*error)
