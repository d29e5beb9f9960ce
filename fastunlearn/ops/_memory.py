"""Large tensors inside a pass on the CPU: the memory of those that are gone serves the next, on large pages.

The C library takes blocks of more than 32 MiB from the system and gives them back each time; the system clears them and
hands them out page by page, at the first touch. With eight vectors at once most tangents are that large. Results do not
come from here: they leave the pass, and the C library often has kept memory for them, which no fresh page beats.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar

import torch
from torch import Tensor

__all__ = ["LARGE", "empty", "reuse"]

#: Bytes from which a tensor is large: below that, the allocator of the C library reuses memory by itself.
LARGE = 16 * 2**20
_WISH = getattr(mmap, "MADV_HUGEPAGE", None)


class _Pool:
    """Blocks of memory that tensors of one pass have given back. Closed, it keeps nothing."""

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []
        self._open = True

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype, size: int) -> Tensor:
        """An uninitialised tensor of ``size`` bytes; its block comes back when its storage dies."""
        fitting = [block for block in self._free if size <= len(block) <= 2 * size]
        block = min(fitting, key=len, default=None)
        if block is None:
            block = _block(size)
        else:
            self._free.remove(block)
        # The storage holds on to this object and, as the block exports its buffer to it, to nothing else of ours.
        hold = (ctypes.c_char * size).from_buffer(block)
        weakref.finalize(hold, self._give_back, block).atexit = False
        return torch.frombuffer(hold, dtype=dtype).view(shape)

    def _give_back(self, block: mmap.mmap) -> None:
        if self._open:
            self._free.append(block)

    def close(self) -> None:
        """Gives all free blocks to the system; those in use follow when their tensors die."""
        self._open = False
        self._free.clear()


_pool: ContextVar[_Pool | None] = ContextVar("fastunlearn_large_tensors", default=None)


def _block(size: int) -> mmap.mmap:
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if _WISH is not None:
        with suppress(OSError):  # a kernel built without them: small pages serve
            block.madvise(_WISH)
    return block


@contextmanager
def reuse() -> Iterator[None]:
    """Within it, large tensors of :func:`empty` take the memory of those that are gone. At its end
    what is free goes back to the system; tensors that live on stay good."""
    pool = _Pool()
    token = _pool.set(pool)
    try:
        yield
    finally:
        _pool.reset(token)
        pool.close()


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """``torch.empty`` on the CPU."""
    shape, pool = tuple(shape), _pool.get()
    size = torch.Size(shape).numel() * dtype.itemsize
    if pool is None or size < LARGE:
        return torch.empty(shape, dtype=dtype)
    return pool.tensor(shape, dtype, size)
