"""Wall time and peak memory of a block of code, and sizes of memory as people write them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from fastunlearn.errors import InvalidInputError

__all__ = ["Usage", "measured", "parse_memory", "process_seconds", "resident_bytes", "trim"]

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): resets the peak resident set size (VmHWM) to the current one
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Usage:
    """What a block used. ``seconds``: wall time. ``peak_bytes``: the highest memory above that at the start,
    or None where this system cannot tell. Both are filled in when the block ends, also by an exception."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self.peak_bytes: int | None = None
        self._device = device
        self._start_bytes = 0
        self._highest: int | None = 0

    def __repr__(self) -> str:
        return f"Usage(seconds={self.seconds:.3f}, peak_bytes={self.peak_bytes})"


# There is one peak counter per process (or GPU) and starting a block resets it. So that an inner block does
# not wipe out what an outer one has seen, every start and end first hands the counter's value to all open
# blocks.
_open: list[Usage] = []
_lock = threading.RLock()


def _host_bytes(field: str) -> int | None:
    """``field`` (VmRSS or VmHWM) of this process in bytes; None where there is no /proc."""
    try:
        text = _STATUS.read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _reset_host_peak() -> bool:
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def trim() -> None:
    """Gives memory that is free inside the C library back to the system, so that the next peak does not stand on what
    an earlier step has left. Nothing happens on a C library other than glibc."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _fold(device: torch.device) -> None:
    """Hands the peak since the last reset to all open blocks on ``device`` and resets the counter."""
    blocks = [usage for usage in _open if usage._device == device]
    if device.type == "cuda":
        peak: int | None = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        peak = _host_bytes("VmHWM")
        if not _reset_host_peak():
            peak = None
    for usage in blocks:
        usage._highest = None if peak is None or usage._highest is None else max(usage._highest, peak)


@contextlib.contextmanager
def measured(device: str | torch.device = "cpu") -> Iterator[Usage]:
    """``with measured(device) as usage: ...`` then ``usage.seconds`` and ``usage.peak_bytes``.

    On a CUDA device the peak is that of PyTorch's allocator on that device, and the device is waited for at
    both ends. Elsewhere it is the peak resident set of the whole process: Linux only (None on other systems
    and where /proc/self/clear_refs cannot be written), exact to about a megabyte, and memory of other threads
    counts too. Blocks may be nested and may overlap: each sees the whole peak between its start and its end.
    Code inside that resets the same counters itself (``torch.cuda.reset_peak_memory_stats``) hides what came
    before it.
    """
    device = torch.device(device)
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        torch.cuda.synchronize(device)
    else:
        device = torch.device("cpu")
    usage = Usage(device)
    with _lock:
        if device.type == "cpu" and not _open:
            trim()
        _fold(device)
        start = torch.cuda.memory_allocated(device) if device.type == "cuda" else _host_bytes("VmRSS")
        usage._start_bytes = start or 0
        usage._highest = start
        _open.append(usage)
    began = time.perf_counter()
    try:
        yield usage
    finally:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        usage.seconds = time.perf_counter() - began
        with _lock:
            _fold(device)
            _open.remove(usage)
        if usage._highest is not None:
            usage.peak_bytes = max(0, usage._highest - usage._start_bytes)


def resident_bytes() -> int:
    """The memory that this process holds now, in bytes; 0 where the system does not tell."""
    return _host_bytes("VmRSS") or 0


def process_seconds() -> float:
    """How long this process has been running, imports included; 0 where the system does not tell."""
    try:
        ticks = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
        now = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(0.0, now - ticks / os.sysconf("SC_CLK_TCK"))


def parse_memory(value: str | int, *, name: str = "memory") -> int:
    """Bytes of ``value``: an int is bytes already; "8GB", "500 MB", "1.5G", "64KiB" are read as written.

    KB, MB, GB, TB are powers of 1000; KiB, MiB, GiB, TiB of 1024; upper or lower case. Raises
    InvalidInputError, naming the argument ``name``, for anything else, for less than one byte, and for text without a
    unit that would be less than a megabyte: who writes "3" means another unit.
    """
    mend = f'give {name} as a size such as "500MB", "8GB" or "8GiB"'
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise InvalidInputError(f"{name} is {type(value).__name__}; {mend}")
    if isinstance(value, int):
        size: float = value
    else:
        found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([KMGT]?)(I?)B?\s*", value.upper(), re.ASCII)
        if found is None or (found[3] and not found[2]):
            raise InvalidInputError(f"{name}={value!r} is not a size; {mend}")
        units = _BINARY_UNITS if found[3] else _UNITS
        size = float(found[1]) * units[found[2]]
        if value.strip().isdecimal() and 1 <= size < 10**6:
            number = value.strip()
            raise InvalidInputError(f"{name} {number} is {size:.0f} bytes; give a unit, as in {number}GB")
    if not 1 <= size <= sys.float_info.max:
        raise InvalidInputError(f"{name}={value!r} is not a positive number of bytes; {mend}")
    return int(size)
