"""Large tensors on the CPU: on large pages where the system has them on request, and within a pass in reused memory.

Memory of hundreds of megabytes is taken from the system and given back each time; the system clears it and hands it
out page by page, at its first touch. In a product with eight vectors that was a fifth of the time.
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

__all__ = ["LARGE", "empty", "reuse", "zeros"]

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
    """Within it, large tensors of :func:`empty` and :func:`zeros` take the memory of those that are gone. At its end
    what is free goes back to the system; tensors that live on stay good."""
    pool = _Pool()
    token = _pool.set(pool)
    try:
        yield
    finally:
        _pool.reset(token)
        pool.close()


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """``torch.empty``."""
    shape = tuple(shape)
    size = torch.Size(shape).numel() * dtype.itemsize
    if size < LARGE or torch.device(device).type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    return (_pool.get() or _Pool()).tensor(shape, dtype, size)


def zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """``torch.zeros``."""
    return empty(shape, dtype, device).zero_()
