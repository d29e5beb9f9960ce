"""How every Triton kernel here is launched: the choice of its tile sizes by timing (kept by _triton_choices.py).

A kernel comes with a few candidate tiles, best guess first, and sometimes a rival: the same by a library. On a GPU the
first call of each kind times the candidates and keeps the winner, in memory and in a file.
``FASTUNLEARN_TUNE=0`` takes the first candidate that fits the GPU instead, whatever the file says: no timing, and the
same sums on every run. While a CUDA graph is recorded nothing is timed either, but what is known is taken.
Under ``TRITON_INTERPRET=1`` tensors are on the CPU, tiles are small.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources

from . import _triton_choices as choices

__all__ = [
    "Grid", "NoTileFits", "Tile", "architecture", "fastest", "hopper", "interpreted", "launch", "next_power_of_2",
    "precision", "with_device",
]  # fmt: skip

_ROUNDS = 5
_quick: dict[tuple, int] = {}  # choices by what they were made for: the name in the file takes a while to write out
_fitting: dict[tuple, int] = {}  # the first that fits the GPU, of those that were not timed


class NoTileFits(RuntimeError):
    """All tiles of a kernel need more shared memory or registers than the GPU has."""


@dataclass(frozen=True)
class Tile:
    """One way to cut a kernel's work: its block sizes, warps and pipeline stages."""

    sizes: dict[str, int] = field(hash=False)
    warps: int = 4
    stages: int = 2


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def architecture() -> int:
    """80 for compute capability 8.0, 90 for 9.0, and so on, of the current GPU; 80 in the interpreter."""
    return 80 if interpreted() else _architecture(torch.cuda.current_device())


@functools.cache
def _architecture(device: int) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def hopper() -> bool:
    """Whether the current GPU takes tiles made for Hopper, as GPUs for data centres from 9.0 on do. Those of 12.x have
    the shared memory and the products of Ampere's desktop GPUs."""
    return 90 <= architecture() < 120


def next_power_of_2(value: int) -> int:
    return triton.next_power_of_2(max(1, value))


def precision(dtype: torch.dtype) -> str:
    """How float32 products are made: three TF32 products (float32 accuracy), or one where PyTorch is allowed to."""
    # Not allow_tf32: reading that is an error once somebody has used the newer switch. This one follows both.
    allowed = dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if allowed else "tf32x3"


def with_device(tensor: Tensor) -> contextlib.AbstractContextManager:
    """Makes the tensor's GPU the current one: Triton launches on the current device and its current stream."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


Grid = Callable[[Tile], tuple]


def launch(
    kernel, grid: Grid, tiles: tuple[Tile, ...], arguments: dict, key: tuple = (), *,
    reset: Callable[[], object] | None = None, rival: Callable[[dict], None] | None = None,
    trial: Callable[[], tuple[Grid, dict]] | None = None,
) -> None:  # fmt: skip
    """Runs ``kernel`` over ``grid(tile)`` with the best of ``tiles``.

    ``arguments``: every argument by name, without those of the tile. ``key``: what the best tile depends on, beside
    the kernel and the GPU. A kernel that is timed runs several times: one that adds to what it writes needs ``reset``,
    which sets that to zero and is called before the run that counts, or ``trial``, which gives a grid and arguments to
    time with in its place. ``rival(arguments)`` computes the same by a library, and is one more candidate.
    Raises :class:`NoTileFits`.
    """
    number: int | None = 0
    what = (kernel.fn.__name__, key, tiles, rival is not None)
    if not interpreted():
        what = (_device(), *what)
        if len(tiles) > 1 or rival is not None:
            number = _choose(kernel, trial or (lambda: (grid, arguments)), tiles, key, rival, what)
    if reset is not None:
        reset()
    if number == len(tiles):
        rival(arguments)
    elif number is not None and len(tiles) > 1:
        run(kernel, grid, tiles[number], arguments)
    else:
        _run_first_that_fits(kernel, grid, tiles, arguments, what)


def fastest(name: str, ways: tuple[Callable[[], None], ...], key: tuple) -> Callable[[], None]:
    """The way among several launches that is fastest, by timing each the first time; ``key`` as for :func:`launch`.

    Every way may run several times. Where nothing is timed, the first is taken that has tiles for this GPU. A way that
    does not run for want of memory is not taken this time; the choice is then not kept."""
    if len(ways) == 1 or interpreted():
        return ways[0]
    known = json.dumps([_device(), name, len(ways), *key])
    if not _tuned():
        return functools.partial(_first_with_tiles, ways)
    if (number := choices.get(known)) is not None:
        return ways[number]
    if torch.cuda.is_current_stream_capturing():
        return functools.partial(_first_with_tiles, ways)
    seconds: dict[int, float] = {}
    failed: Exception | None = None
    short_of_memory = False
    for number, way in enumerate(ways):
        try:
            way()  # compiles its kernels, and times their tiles
            seconds[number] = _seconds(way)
        except NoTileFits as error:
            failed = error
        except torch.OutOfMemoryError as error:
            failed, short_of_memory = error, True
    if not seconds:
        raise failed
    best = min(seconds, key=seconds.get)
    if not short_of_memory:
        choices.keep(known, best)
    return ways[best]


def _first_with_tiles(ways: tuple[Callable[[], None], ...]) -> None:
    for way in ways[:-1]:
        with contextlib.suppress(NoTileFits):
            return way()
    return ways[-1]()


def run(kernel, grid: Grid, tile: Tile, arguments: dict) -> None:
    """One launch with this tile. The ahead-of-time check (bench/device/aot.py) puts its own function here."""
    kernel[grid(tile)](**arguments, **tile.sizes, num_warps=tile.warps, num_stages=tile.stages)


def _run_first_that_fits(kernel, grid: Grid, tiles: tuple[Tile, ...], arguments: dict, what: tuple) -> None:
    if what in _fitting:
        return run(kernel, grid, tiles[_fitting[what]], arguments)
    for number, tile in enumerate(tiles):
        try:
            run(kernel, grid, tile, arguments)
        except OutOfResources:
            continue  # nothing was launched
        _fitting[what] = number
        return None
    raise NoTileFits(f"no tile of {kernel.fn.__name__} fits this GPU ({_device()})")


def _tuned() -> bool:
    return os.environ.get("FASTUNLEARN_TUNE", "1") != "0"


def _choose(
    kernel, trial: Callable[[], tuple[Grid, dict]], tiles: tuple[Tile, ...], key: tuple, rival, what: tuple
) -> int | None:
    """The number of the tile; that of the tiles for the rival; None where nothing is known and nothing may be timed."""
    if not _tuned():
        return None
    if what in _quick:
        return _quick[what]
    name = json.dumps([_device(), kernel.fn.__name__, *key, [asdict(tile) for tile in tiles], *["rival"] * bool(rival)])
    if (number := choices.get(name)) is not None:
        return _quick.setdefault(what, number)
    if torch.cuda.is_current_stream_capturing():
        return None
    seconds = {}
    grid, arguments = trial()
    for number, tile in enumerate(tiles):
        with contextlib.suppress(OutOfResources):  # more shared memory than this GPU has
            run(kernel, grid, tile, arguments)
            seconds[number] = _seconds(functools.partial(run, kernel, grid, tile, arguments))
    if rival is not None:
        with contextlib.suppress(RuntimeError):  # that this PyTorch cannot run: the kernel is there
            rival(arguments)
            seconds[len(tiles)] = _seconds(functools.partial(rival, arguments))
    if not seconds:
        raise NoTileFits(f"no tile of {kernel.fn.__name__} fits this GPU ({_device()})")
    best = min(seconds, key=seconds.get)
    choices.keep(name, best)
    return _quick.setdefault(what, best)


def _seconds(call: Callable[[], None]) -> float:  # needs a GPU
    times = []
    for _ in range(_ROUNDS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def _device() -> str:
    return _device_name(torch.cuda.current_device())


@functools.cache
def _device_name(device: int) -> str:  # needs a GPU
    return f"{torch.cuda.get_device_name(device)} / triton {triton.__version__}"
