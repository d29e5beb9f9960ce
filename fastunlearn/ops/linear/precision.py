"""How exactly float32 matrices are multiplied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastunlearn.errors import BackendUnavailableError, InvalidInputError

__all__ = ["MODES", "precision"]

MODES = ("float32", "bf16x3", "bf16")


@contextmanager
def precision(mode: str) -> Iterator[None]:
    """Within this context float32 matrices are multiplied by ``mode``; "float32" is the default and exact to rounding.

    "bf16x3" (three products of bfloat16 parts) and "bf16" need products of bfloat16 matrices whose results stay in
    float32. PyTorch gives none on the CPU, and no kernel of this package has them yet, so they raise.

    Raises InvalidInputError for an unknown mode and BackendUnavailableError for one that has no kernel.
    """
    if mode not in MODES:
        raise InvalidInputError(f"mode={mode!r} is unknown; use one of {', '.join(MODES)}")
    if mode != "float32":
        raise BackendUnavailableError(f"precision {mode!r} has no kernel; use 'float32', or a bfloat16 model")
    yield
