"""How every Triton kernel here is launched: the choice of its tile sizes, and where the choice is kept.

A kernel comes with a few candidate tiles, best guess first, and sometimes a rival: the same by a library. On a GPU the
first call of each kind times the candidates and keeps the winner, in memory and in a JSON file
(``FASTUNLEARN_TUNE_FILE``, by default in Triton's cache folder).
``FASTUNLEARN_TUNE=0`` takes the first candidate that fits the GPU instead: no timing, and the same sums on every run.
While a CUDA graph is recorded nothing is timed. Under ``TRITON_INTERPRET=1`` tensors are on the CPU, tiles are small.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources

__all__ = [
    "Grid", "Tile", "architecture", "fastest", "interpreted", "launch", "next_power_of_2", "precision", "with_device",
]  # fmt: skip

_ROUNDS = 5
_chosen: dict[str, int] = {}  # as in the file
_quick: dict[tuple, int] = {}  # the same by what it was chosen for: the name in the file takes a while to write out
_fitting: dict[tuple, int] = {}  # the first that fits the GPU, of those that were not timed


@dataclass(frozen=True)
class Tile:
    """One way to cut a kernel's work: its block sizes, warps and pipeline stages."""

    sizes: dict[str, int] = field(hash=False)
    warps: int = 4
    stages: int = 2


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def architecture() -> int:
    """80 for compute capability 8.0, 90 for 9.0, and so on, of the current GPU; 80 in the interpreter."""
    if interpreted():
        return 80
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def next_power_of_2(value: int) -> int:
    return triton.next_power_of_2(max(1, value))


def precision(dtype: torch.dtype) -> str:
    """How float32 products are made: three TF32 products (float32 accuracy), or one where PyTorch is allowed to."""
    return "tf32" if dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32 else "tf32x3"


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
    """
    number = 0
    if (len(tiles) > 1 or rival is not None) and not interpreted():
        number = _choose(kernel, trial or (lambda: (grid, arguments)), tiles, key, rival)
    if reset is not None:
        reset()
    if number == len(tiles):
        rival(arguments)
    else:
        run(kernel, grid, tiles[number], arguments)


def fastest(name: str, ways: tuple[Callable[[], None], ...], key: tuple) -> Callable[[], None]:
    """The way among several launches that is fastest, by timing each the first time; ``key`` as for :func:`launch`.

    Every way may run several times. The first is taken where nothing is timed."""
    if len(ways) == 1 or interpreted():
        return ways[0]
    known = json.dumps([_device(), name, len(ways), *key])
    if known not in _chosen:
        _chosen.update(_read())
    if known not in _chosen:
        if os.environ.get("FASTUNLEARN_TUNE", "1") == "0" or torch.cuda.is_current_stream_capturing():
            return ways[0]
        seconds = []
        for way in ways:
            way()  # compiles its kernels, and times their tiles
            seconds.append(_seconds(way))
        _chosen[known] = seconds.index(min(seconds))
        _write(known)
    return ways[_chosen[known]]


def run(kernel, grid: Grid, tile: Tile, arguments: dict) -> None:
    """One launch with this tile. The ahead-of-time check (bench/device/aot.py) puts its own function here."""
    kernel[grid(tile)](**arguments, **tile.sizes, num_warps=tile.warps, num_stages=tile.stages)


def _choose(kernel, trial: Callable[[], tuple[Grid, dict]], tiles: tuple[Tile, ...], key: tuple, rival) -> int:
    """The number of the tile; that of the tiles for the rival."""
    what = (_device(), kernel.fn.__name__, key, tiles, rival is not None)
    if what in _quick:
        return _quick[what]
    name = json.dumps([_device(), kernel.fn.__name__, *key, [asdict(tile) for tile in tiles], *["rival"] * bool(rival)])
    if name not in _chosen:
        _chosen.update(_read())
    if name in _chosen:
        return _quick.setdefault(what, _chosen[name])
    timed = os.environ.get("FASTUNLEARN_TUNE", "1") != "0" and not torch.cuda.is_current_stream_capturing()
    if not timed and what in _fitting:
        return _fitting[what]
    seconds = {}
    grid, arguments = trial()
    for number, tile in enumerate(tiles):
        try:
            run(kernel, grid, tile, arguments)
        except OutOfResources:
            continue  # more shared memory than this GPU has
        if not timed:
            return _fitting.setdefault(what, number)
        seconds[number] = _seconds(functools.partial(run, kernel, grid, tile, arguments))
    if rival is not None and timed:
        with contextlib.suppress(RuntimeError):  # that this PyTorch cannot run: the kernel is there
            rival(arguments)
            seconds[len(tiles)] = _seconds(functools.partial(rival, arguments))
    if not seconds:
        raise RuntimeError(f"no tile of {kernel.fn.__name__} fits this GPU ({_device()})")
    _chosen[name] = min(seconds, key=seconds.get)
    _write(name)
    return _quick.setdefault(what, _chosen[name])


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


@functools.cache
def _device() -> str:  # needs a GPU
    return f"{torch.cuda.get_device_name()} / triton {triton.__version__}"


def _file() -> Path:
    named = os.environ.get("FASTUNLEARN_TUNE_FILE")
    return Path(named) if named else Path(triton.knobs.cache.dir) / "fastunlearn-tiles.json"


def _read() -> dict[str, int]:
    try:
        return {str(k): int(v) for k, v in json.loads(_file().read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError):
        return {}  # no file yet, or one that is not ours: the tiles are timed again


def _write(name: str) -> None:
    path = _file()
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({**_read(), name: _chosen[name]}, indent=1), encoding="utf-8")
        temporary.replace(path)
    except OSError:
        pass  # a read-only home: the choice is kept in memory, and timed again next time
