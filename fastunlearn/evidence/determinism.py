"""The state of PyTorch in which a run gives the same bits again on the same type of machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fastunlearn.errors import InvalidInputError

__all__ = ["deterministic"]


@contextlib.contextmanager
def deterministic(threads: int) -> Iterator[None]:
    """Inside, PyTorch has ``threads`` threads and refuses operations without a deterministic implementation; afterwards
    all is as it was. Sums are split by threads, so their number is a part of what must be the same."""
    import torch

    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InvalidInputError(f"threads={threads!r} must be an integer of at least 1")
    before = torch.get_num_threads()
    strict, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warn)
        torch.set_num_threads(before)
