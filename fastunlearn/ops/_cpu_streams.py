"""How tensors are handed to the CPU kernels: rows of consecutive elements with strides between them, streams apart."""

from __future__ import annotations

import torch
from torch import Tensor

from fastunlearn.ops import _memory as fresh
from fastunlearn.ops._dispatch import choose_backend, extension

#: The dtypes that the pointwise kernels have, and their numbers there (csrc/cpu/kernels.h). float16 has none: it
#: goes to the reference.
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}


def choose(requested: str | None, value: Tensor, backends: tuple[str, ...]) -> str:
    """:func:`choose_backend` for the tensor ``value``; a dtype that the CPU kernels lack goes to the reference.

    Raises as that does: also where "cpu" was asked for with such a dtype.
    """
    return choose_backend(requested, value.device, backends, value.dtype, {"cpu": DTYPES})


def as_rows(value: Tensor, lead: int = 0) -> Tensor | None:
    """A view (*lead axes, rows, columns) of ``value`` with consecutive columns, or None where there is none.

    ``lead``: how many leading axes (K) stay as they are. All others but the last become one.
    """
    inner = value.shape[lead:]
    if not inner:
        return value.reshape(*value.shape[:lead], 1, 1)
    if value.stride(-1) != 1 and inner[-1] != 1:
        return None
    try:
        return value.view(*value.shape[:lead], -1 if value.numel() else 0, inner[-1])
    except RuntimeError:
        return None


def rows(value: Tensor | None, lead: int = 0) -> Tensor | None:
    """:func:`as_rows`, of a contiguous copy where the strides do not allow a view. None stays None. A sign that PyTorch
    puts off (``resolve_neg``) is in the rows' memory."""
    if value is None:
        return None
    value = value.detach().resolve_neg()
    view = as_rows(value, lead)
    return as_rows(value.contiguous(), lead) if view is None else view


def stream(value: Tensor | None) -> tuple[int, int, int]:
    """(address, stride of K, stride of rows) of (rows, columns) or (K, rows, columns); (0, 0, 0) for None."""
    if value is None:
        return (0, 0, 0)
    return value.data_ptr(), value.stride(0) if value.dim() == 3 else 0, value.stride(-2)


def separate(value: Tensor | None) -> Tensor | None:
    """(K, rows, columns) with every stream in one piece where streams lie element by element beside each other, as the
    columns of a matrix (P, K) do: a copy, made in one reading. Anything else stays as it is."""
    if value is None or value.shape[0] == 1 or value.stride(0) != 1:
        return value
    if value.stride(2) > value.stride(1):  # a transposed weight
        turned = separate(value.mT)
        return value if turned is None or turned.stride(0) == 1 else turned.mT
    count, rows, columns = value.shape
    apart = value.stride(2)
    if apart < count or value.stride(1) != apart * columns or value.numel() == 0:
        return value
    copy = fresh.empty((count, rows, columns), value.dtype)
    extension("cpu").split_streams(
        value.data_ptr(), rows * columns, apart, count, value.element_size(), copy.data_ptr(), torch.get_num_threads()
    )
    return copy
