"""The op that does nothing: copy this folder to start a new op (csrc/README.md, "Add an op in six steps").

It copies ``x`` to the result, and exists on every backend, so the whole way from Python to a kernel is in view.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops._dispatch import choose_backend, extension

__all__ = ["null"]

BACKENDS = ("reference", "cpu", "cuda")


def null(x: Tensor, *, backend: str | None = None) -> Tensor:
    """A copy of ``x``: any shape, float32, contiguous. Raises InvalidInputError, BackendUnavailableError."""
    if x.dtype != torch.float32 or not x.is_contiguous():
        raise InvalidInputError(f"x must be contiguous float32; it is {x.dtype}")
    chosen = choose_backend(backend, x.device, BACKENDS)
    if chosen == "reference":
        return x.clone()
    out = torch.empty_like(x)
    if chosen == "cpu":
        extension("cpu").null(x.data_ptr(), out.data_ptr(), x.numel(), torch.get_num_threads())
        return out
    with torch.cuda.device(x.device):  # needs a GPU
        stream = torch.cuda.current_stream(x.device).cuda_stream
        extension("cuda").null(x.data_ptr(), out.data_ptr(), x.numel(), stream)
    return out
