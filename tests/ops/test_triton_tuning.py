"""The choice of a Triton kernel's tile, with launches and timings put in by hand: no GPU is needed."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from triton.runtime.errors import OutOfResources

from fastunlearn.ops import _triton

TILES = tuple(_triton.Tile({"BLOCK": size}) for size in (16, 32, 64))
KERNEL = SimpleNamespace(fn=SimpleNamespace(__name__="kernel"))


class Machine:
    """A GPU that is not there: which tile runs how long, and which needs more than it has."""

    def __init__(self) -> None:
        self.seconds = {16: 3.0, 32: 1.0, 64: 2.0}
        self.too_large: set[int] = set()
        self.runs: list[int] = []
        self.timed: list[int] = []

    def run(self, kernel, grid, tile, arguments) -> None:
        size = tile.sizes["BLOCK"]
        if size in self.too_large:
            raise OutOfResources(2, 1, "shared memory")
        self.runs.append(size)

    def time(self, call) -> float:
        call()
        self.timed.append(self.runs[-1])
        return self.seconds[self.runs[-1]]

    def launch(self, key=()) -> int:
        """The block size of the launch that counts: the last."""
        _triton.launch(KERNEL, lambda tile: (1,), TILES, {}, key)
        return self.runs[-1]


@pytest.fixture
def machine(monkeypatch, tmp_path):
    made = Machine()
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("FASTUNLEARN_TUNE", raising=False)
    monkeypatch.setenv("FASTUNLEARN_TUNE_FILE", str(tmp_path / "kept" / "tiles.json"))
    monkeypatch.setattr(_triton, "_chosen", {})
    monkeypatch.setattr(_triton, "run", made.run)
    monkeypatch.setattr(_triton, "_seconds", made.time)
    monkeypatch.setattr(_triton, "_device", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return made


def forget(monkeypatch) -> None:
    """As in a new process: only the file remembers."""
    monkeypatch.setattr(_triton, "_chosen", {})


def test_fastest_tile_is_taken_and_remembered(machine):
    assert machine.launch() == 32
    assert machine.timed == [16, 32, 64]
    assert machine.launch() == 32
    assert machine.timed == [16, 32, 64], "a second call timed again"


def test_another_key_is_timed_for_itself(machine):
    machine.launch(("float32",))
    machine.seconds = {16: 1.0, 32: 2.0, 64: 2.0}
    assert machine.launch(("bfloat16",)) == 16
    assert machine.launch(("float32",)) == 32


def test_choice_outlives_the_process(machine, monkeypatch, tmp_path):
    machine.launch()
    forget(monkeypatch)
    machine.seconds = {16: 0.1, 32: 1.0, 64: 2.0}
    assert machine.launch() == 32
    assert len(machine.timed) == 3
    assert list(json.loads((tmp_path / "kept" / "tiles.json").read_text()).values()) == [1]


def test_choices_of_other_kernels_stay_in_the_file(machine, monkeypatch, tmp_path):
    machine.launch(("first",))
    forget(monkeypatch)
    machine.launch(("second",))
    assert len(json.loads((tmp_path / "kept" / "tiles.json").read_text())) == 2


def test_tile_that_does_not_fit_is_passed_over(machine):
    machine.too_large = {32}
    assert machine.launch() == 64


def test_nothing_fits(machine):
    machine.too_large = {16, 32, 64}
    with pytest.raises(RuntimeError, match=r"no tile of kernel fits this GPU \(a GPU\)"):
        machine.launch()


def test_no_timing_when_switched_off(machine, monkeypatch, tmp_path):
    monkeypatch.setenv("FASTUNLEARN_TUNE", "0")
    machine.too_large = {16}
    assert machine.launch() == 32, "the first that fits"
    assert not machine.timed and not (tmp_path / "kept").exists()


def test_no_timing_while_a_graph_is_recorded(machine, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert machine.launch() == 16
    assert not machine.timed


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"a": "no number"}'])
def test_file_that_is_not_ours_is_timed_over(machine, tmp_path, text):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "tiles.json").write_text(text)
    assert machine.launch() == 32
    assert list(json.loads((tmp_path / "kept" / "tiles.json").read_text()).values()) == [1]


def test_folder_that_cannot_be_written(machine, tmp_path):
    (tmp_path / "kept").write_text("a file where the folder should be")
    assert machine.launch() == 32
    assert machine.launch() == 32 and len(machine.timed) == 3


@pytest.mark.parametrize("allowed", [False, True])
def test_float32_products_follow_the_switch_of_pytorch(allowed):
    switch = torch.backends.cuda.matmul
    before, switch.allow_tf32 = switch.allow_tf32, allowed
    try:
        assert _triton.precision(torch.float32) == ("tf32" if allowed else "tf32x3")
        assert _triton.precision(torch.bfloat16) == "tf32x3"
    finally:
        switch.allow_tf32 = before
