"""Which tiles and ways the Triton kernels of attention are offered, for every head, dtype and architecture."""

from __future__ import annotations

import itertools

import pytest
import torch

pytest.importorskip("triton")

from fastunlearn.ops.attention import _triton_tiles as tiles
from fastunlearn.ops.attention._triton_ways import Sweep

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
HEADS = (8, 16, 20, 24, 32, 48, 64, 72, 80, 96, 100, 112, 128, 144, 160, 192, 200, 256)


@pytest.fixture(params=[80, 90])
def architecture(request, monkeypatch):
    monkeypatch.setattr(tiles, "interpreted", lambda: False)
    monkeypatch.setattr(tiles, "hopper", lambda: request.param == 90)
    return request.param


def offered(dtype: torch.dtype, head: int) -> list[str]:
    arguments = {"q": torch.empty(0, dtype=dtype), "D": head, "E": head}
    return [way.__name__ for way in Sweep(arguments, {}, ()).ways()]


def test_every_head_has_tiles(architecture):
    for dtype, head in itertools.product(DTYPES, HEADS):
        forward, store = tiles.forward_tiles(dtype, head), tiles.store_tiles(dtype, head)
        block = tiles.column_block(head)
        sums = tiles.sum_tiles(dtype, block)
        assert forward and store and sums, (dtype, head)
        assert all(tile.sizes["PART"] < head for tile in forward + store)
        assert block >= head or head % block == 0
        for tile in store + sums + tiles.storing_tiles(dtype, head):
            assert all(tiles.store_grain() % size == 0 for name, size in tile.sizes.items() if name != "PART"), tile


def test_ways(architecture):
    """Where sums and scores fit into the registers together, all; else the scores go through memory."""
    narrow = ["apart", *["fused"] * (architecture == 90), "stored", "storing"]
    assert offered(torch.bfloat16, 64) == offered(torch.float16, 8) == narrow
    assert offered(torch.bfloat16, 128) == offered(torch.float32, 64) == ["stored", "apart", "storing"]
    assert offered(torch.bfloat16, 192) == offered(torch.float32, 80) == ["stored"]
    torch.use_deterministic_algorithms(True)
    try:
        assert "fused" not in offered(torch.bfloat16, 64)
    finally:
        torch.use_deterministic_algorithms(False)
