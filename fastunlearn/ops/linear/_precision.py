"""How float32 matrices are multiplied in the linear layers: exactly, or by bfloat16 products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from fastunlearn.errors import BackendUnavailableError, InvalidInputError

__all__ = ["MODES", "mode_of", "precision"]

#: Mode -> its number in csrc/cpu/gemm.h. README.md has the errors.
MODES = {"float32": 0, "bf16": 1, "bf16x3": 2}

_mode: ContextVar[str] = ContextVar("fastunlearn_linear_precision", default="float32")


@contextmanager
def precision(mode: str) -> Iterator[None]:
    """Within ``with fu.precision("bf16x3"):`` the linear layers of float32 models multiply in another way.

    "float32": as float32 (the default). "bf16": operands rounded to bfloat16, sums in float32; relative error 3e-3.
    "bf16x3": operands as sums of two bfloat16, in three products; relative error 1e-5. It covers the linear layers of a
    dual pass on the CPU, neither attention nor the output layer with its cross-entropy. Other dtypes are not touched.

    The setting is the calling thread's own and ends with the block, also by an exception. Raises InvalidInputError for
    an unknown mode; inside, a float32 product raises BackendUnavailableError where the machine has no bfloat16 dot
    products (AVX512-BF16), or the backend is not "cpu".
    """
    if mode not in MODES:
        raise InvalidInputError(f"precision({mode!r}) is unknown; use one of {', '.join(MODES)}")
    token = _mode.set(mode)
    try:
        yield
    finally:
        _mode.reset(token)


def mode_of(dtype: torch.dtype, backend: str) -> str:
    """The mode for products of ``dtype`` on ``backend``. Raises BackendUnavailableError where that has none but
    "float32"."""
    mode = _mode.get() if dtype == torch.float32 else "float32"
    if mode != "float32" and backend != "cpu":
        raise BackendUnavailableError(
            f"precision({mode!r}) multiplies on the backend 'cpu' alone, and this product is for {backend!r}: "
            f"leave the block, or convert the model to bfloat16"
        )
    return mode
