"""Candidates that a check forces, where the GPU has room for some of them only."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")
from triton.runtime.errors import OutOfResources

from bench.device.choices import ATTENTION, attention_choices, forced, offered_ways, one_way
from fastunlearn.ops import _triton
from fastunlearn.ops.attention import _triton_tiles as tiles
from fastunlearn.ops.attention import triton as attention

TILES = tuple(_triton.Tile({"BLOCK": size}) for size in (64, 256, 32))
KERNEL = SimpleNamespace(fn=SimpleNamespace(__name__="some_kernel"))


@pytest.fixture
def ran(monkeypatch):
    """Sizes of the tiles that ran; those of more than ``ran.room`` do not fit."""
    found = SimpleNamespace(sizes=[], room=1000)

    def run(kernel, grid, tile, arguments):
        if tile.sizes["BLOCK"] > found.room:
            raise OutOfResources(tile.sizes["BLOCK"], found.room, "shared memory")
        found.sizes.append(tile.sizes["BLOCK"])

    monkeypatch.setattr(_triton, "run", run)
    monkeypatch.setattr(_triton, "interpreted", lambda: False)
    monkeypatch.setattr(_triton, "_device", lambda: "a GPU")
    return found


def launch(rival=None):
    _triton.launch(KERNEL, lambda tile: (1,), TILES, {}, rival=rival)


def test_a_candidate_is_forced(ran):
    for number, size in enumerate((64, 256, 32, 32)):
        with forced(number, "triton"):
            launch()
        assert set(ran.sizes) == {size}
        ran.sizes.clear()


def test_the_library_is_the_last_candidate(ran):
    calls = []
    with forced(5, "triton"):
        launch(rival=calls.append)
    assert calls == [{}] and not ran.sizes


def test_a_candidate_that_does_not_fit_gives_way(ran):
    ran.room = 100
    with forced(1, "triton"):
        launch()
    assert set(ran.sizes) == {64}
    ran.room = 10
    with forced(1, "triton"), pytest.raises(RuntimeError, match="no tile of some_kernel fits"):
        launch()


def test_a_way_is_forced_where_it_is_offered():
    def apart(): ...
    def stored(): ...

    for way, taken in (("stored", stored), ("fused", apart)):
        with forced(0, "triton", way):
            assert attention.fastest("attention_backward", (apart, stored), ()) is taken
        with one_way("stored"):
            assert attention.fastest("attention_backward", (apart, stored), ()) is stored
    names = offered_ways(lambda: attention.fastest("attention_backward", (apart, stored), ())())
    assert names == ["apart", "stored"] and offered_ways(lambda: None) == []


def test_choices_are_what_heads_are_offered(monkeypatch):
    """Every tile of every way, and nothing twice."""
    monkeypatch.setattr(tiles, "hopper", lambda: True)
    assert attention_choices("reference", torch.bfloat16, 64) == [("", 0)]
    narrow = attention_choices("triton", torch.bfloat16, 64)
    assert {("fused", 1), ("storing", 2)} <= set(narrow) and len(set(narrow)) == len(narrow)
    assert {way for way, _ in attention_choices("triton", torch.float32, 128)} == {"stored"}
    for dtype, head in itertools.product((torch.float32, torch.bfloat16), (64, 128, 256)):
        assert max(len(tiles.query_tiles(dtype, head)), len(tiles.key_tiles(dtype, head))) <= ATTENTION["apart"]
        assert len(tiles.fused_tiles(dtype, head)) <= ATTENTION["fused"]
        assert max(len(tiles.sum_tiles(dtype, head)), len(tiles.store_tiles(dtype, head))) <= ATTENTION["stored"]
        assert len(tiles.forward_tiles(dtype, head)) <= ATTENTION["stored"]
        assert len(tiles.storing_tiles(dtype, head)) <= ATTENTION["storing"]
