"""Candidates of the Triton kernels: each tile, way and rival in its turn, whichever would be the fastest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

__all__ = ["choices", "forced"]

#: As many as any kernel of that kind has.
COUNTS = {"attention": 4, "products": 5, "gram": 4}


def choices(kind: str, backend: str) -> range:
    """The numbers to force. One where there is nothing to choose: another backend, or the interpreter."""
    if backend != "triton":
        return range(1)
    from fastunlearn.ops._triton import interpreted

    return range(1 if interpreted() else COUNTS[kind])


@contextlib.contextmanager
def forced(number: int, backend: str) -> Iterator[None]:
    """Every launch takes its candidate of that number, or its last."""
    if backend != "triton":
        yield
        return
    from fastunlearn.ops import _triton
    from fastunlearn.ops.attention import triton as attention

    def candidate(_kernel, _trial, tiles, _key, rival) -> int:
        return min(number, len(tiles) - (rival is None))

    def way(_name, ways, _key):
        return ways[min(number, len(ways) - 1)]

    with mock.patch.object(_triton, "_choose", candidate), mock.patch.object(attention, "fastest", way):
        yield
