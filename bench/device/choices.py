"""Candidates of the Triton kernels: each tile, way and rival in its turn, whichever would be the fastest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from unittest import mock

import torch

__all__ = ["attention_choices", "choices", "forced", "offered_ways", "one_way"]

#: As many as any kernel of that kind has.
COUNTS = {"products": 5, "gram": 4}
#: The same for each way to attention's reverse sweep.
ATTENTION = {"apart": 4, "fused": 2, "stored": 3, "storing": 3}


def choices(kind: str, backend: str) -> range:
    """The numbers to force. One where there is nothing to choose: another backend, or the interpreter."""
    return range(COUNTS[kind] if _chooses(backend) else 1)


def attention_choices(backend: str, dtype: torch.dtype, head: int) -> list[tuple[str, int]]:
    """The same for attention, with the name of each way to its reverse sweep that such heads are offered, in the
    interpreter too."""
    if backend != "triton":
        return [("", 0)]
    from fastunlearn.ops.attention._triton_ways import Sweep

    names = [way.__name__ for way in Sweep({"q": torch.empty(0, dtype=dtype), "D": head, "E": head}, {}, ()).ways()]
    return [(name, number) for name in names for number in range(ATTENTION[name] if _chooses(backend) else 1)]


def _chooses(backend: str) -> bool:
    if backend != "triton":
        return False
    from fastunlearn.ops._triton import interpreted

    return not interpreted()


@contextlib.contextmanager
def forced(number: int, backend: str, way: str = "apart") -> Iterator[None]:
    """Every launch takes its candidate of that number, or its last, or where that is too large for this GPU the first
    that is not; attention this way, or its first."""
    if backend != "triton":
        yield
        return
    from triton.runtime.errors import OutOfResources

    from fastunlearn.ops import _triton

    def candidate(kernel, trial, tiles, _key, rival, _what) -> int:
        grid, arguments = trial()
        for one in (min(number, len(tiles) - (rival is None)), *range(len(tiles))):
            if one == len(tiles):
                return one
            with contextlib.suppress(OutOfResources):
                _triton.run(kernel, grid, tiles[one], arguments)
                return one
        raise RuntimeError(f"no tile of {kernel.fn.__name__} fits this GPU")

    def taken(ways: tuple) -> Callable:
        return next((one for one in ways if one.__name__ == way), ways[0])

    with mock.patch.object(_triton, "_choose", candidate), _taking(taken):
        yield


def offered_ways(run: Callable[[], object]) -> list[str]:
    """The ways to attention's reverse sweep among which ``run`` has a choice; none where it takes another backend."""
    names: list[str] = []
    with _taking(lambda ways: names.extend(one.__name__ for one in ways) or ways[0]):
        run()
    return names


@contextlib.contextmanager
def one_way(name: str) -> Iterator[None]:
    """Attention's reverse sweep goes this way, with the tiles that are fastest for it."""
    with _taking(lambda ways: next(one for one in ways if one.__name__ == name)):
        yield


def _taking(choice: Callable[[tuple], Callable]) -> contextlib.AbstractContextManager:
    from fastunlearn.ops.attention import triton as attention

    return mock.patch.object(attention, "fastest", lambda _name, ways, _key: choice(ways))
