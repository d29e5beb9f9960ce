"""The choice of a Triton kernel's tile, with launches and timings put in by hand: no GPU is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from triton.runtime.errors import OutOfResources

from fastunlearn.ops import _triton, _triton_choices

ROOT = Path(__file__).resolve().parents[2]
TILES = tuple(_triton.Tile({"BLOCK": size}) for size in (16, 32, 64))
KERNEL = SimpleNamespace(fn=SimpleNamespace(__name__="kernel"))


class Machine:
    """A GPU that is not there: which tile runs how long, and which needs more than it has."""

    def __init__(self) -> None:
        self.seconds = {16: 3.0, 32: 1.0, 64: 2.0}
        self.too_large: set[int] = set()
        self.runs: list[int] = []
        self.timed: list[int] = []
        self.given: list[dict] = []  # arguments of each run

    def run(self, kernel, grid, tile, arguments) -> None:
        size = tile.sizes["BLOCK"]
        if size in self.too_large:
            raise OutOfResources(2, 1, "shared memory")
        self.given.append(arguments)
        self.runs.append(size)

    def time(self, call) -> float:
        call()
        self.timed.append(self.runs[-1])
        return self.seconds[self.runs[-1]]

    def rival(self, arguments) -> None:
        self.given.append(arguments)
        self.runs.append(0)

    def launch(self, key=(), **how) -> int:
        """The block size of the launch that counts: the last. That of the rival is 0."""
        _triton.launch(KERNEL, lambda tile: (1,), TILES, {"of": "the call"}, key, **how)
        return self.runs[-1]


@pytest.fixture
def machine(monkeypatch, tmp_path):
    made = Machine()
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("FASTUNLEARN_TUNE", raising=False)
    monkeypatch.setenv("FASTUNLEARN_TUNE_FILE", str(tmp_path / "kept" / "tiles.json"))
    forget(monkeypatch)
    monkeypatch.setattr(_triton, "run", made.run)
    monkeypatch.setattr(_triton, "_seconds", made.time)
    monkeypatch.setattr(_triton, "_device", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return made


def forget(monkeypatch) -> None:
    """As in a new process: only the file remembers."""
    monkeypatch.setattr(_triton_choices, "_chosen", {})
    for kept in ("_quick", "_fitting"):
        monkeypatch.setattr(_triton, kept, {})


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


def test_nothing_fits(machine, monkeypatch):
    machine.too_large = {16, 32, 64}
    for tuned in ("1", "0"):
        monkeypatch.setenv("FASTUNLEARN_TUNE", tuned)
        with pytest.raises(_triton.NoTileFits, match=r"no tile of kernel fits this GPU \(a GPU\)"):
            machine.launch()
    with pytest.raises(_triton.NoTileFits):  # one tile: nothing to choose
        _triton.launch(KERNEL, lambda tile: (1,), TILES[:1], {})


@pytest.mark.parametrize("seconds, expected", [(0.5, 0), (1.5, 32)])
def test_a_rival_is_one_more_candidate(machine, monkeypatch, seconds, expected):
    machine.seconds[0] = seconds
    assert machine.launch(rival=machine.rival) == expected
    assert machine.timed == [16, 32, 64, 0]
    forget(monkeypatch)
    assert machine.launch(rival=machine.rival) == expected and len(machine.timed) == 4
    assert machine.launch() == 32, "the choice without a rival is one of its own"


def test_candidates_are_timed_with_the_arguments_of_the_trial(machine):
    machine.seconds[0] = 0.5
    machine.launch(rival=machine.rival, trial=lambda: (lambda tile: (2,), {"of": "the trial"}))
    assert [given["of"] for given in machine.given[:-1]] == ["the trial"] * 8  # once to compile, once timed, each
    assert machine.given[-1] == {"of": "the call"}
    made = []
    machine.launch(rival=machine.rival, trial=lambda: made.append(1))
    assert not made, "a trial is made once, not for every launch"


def test_a_rival_that_does_not_run_is_no_candidate(machine):
    def rival(arguments):
        raise NotImplementedError("this PyTorch has no such product")

    assert machine.launch(rival=rival) == 32


def test_a_rival_alone_beside_one_tile(machine):
    machine.seconds[0] = 0.5
    _triton.launch(KERNEL, lambda tile: (1,), TILES[:1], {}, ("one",), rival=machine.rival)
    assert machine.timed == [16, 0] and machine.runs[-1] == 0


def test_no_rival_where_nothing_is_timed(machine, monkeypatch):
    """The same sums on every run: the kernel's own."""
    monkeypatch.setenv("FASTUNLEARN_TUNE", "0")
    assert machine.launch(rival=machine.rival) == 16 and 0 not in machine.runs


def way_of(machine, size):
    def way() -> None:
        machine.runs.append(size)

    return way


def test_the_fastest_of_several_ways(machine, monkeypatch):
    ways = tuple(way_of(machine, size) for size in (16, 32))
    assert _triton.fastest("sweep", ways, ("bfloat16", 64)) is ways[1]
    assert machine.timed == [16, 32]
    forget(monkeypatch)
    assert _triton.fastest("sweep", ways, ("bfloat16", 64)) is ways[1] and len(machine.timed) == 2
    machine.seconds = {16: 1.0, 32: 2.0}
    assert _triton.fastest("sweep", ways, ("bfloat16", 128)) is ways[0]
    assert _triton.fastest("sweep", ways[1:], ("bfloat16", 64)) is ways[1], "one way: nothing to choose"
    assert len(machine.timed) == 4


def failing(error: Exception):
    def way() -> None:
        raise error

    return way


NO_TILE, NO_MEMORY = _triton.NoTileFits("no tile"), torch.OutOfMemoryError("no memory")


@pytest.mark.parametrize("off", ["switched off", "recorded"])
def test_the_first_way_with_tiles_where_nothing_is_timed(machine, monkeypatch, off):
    if off == "recorded":
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    else:
        monkeypatch.setenv("FASTUNLEARN_TUNE", "0")
    ways = tuple(way_of(machine, size) for size in (16, 32))
    _triton.fastest("sweep", ways, ())()
    _triton.fastest("sweep", (failing(NO_TILE), *ways[1:]), ())()
    assert machine.runs == [16, 32] and not machine.timed
    with pytest.raises(_triton.NoTileFits):
        _triton.fastest("sweep", (failing(NO_TILE),) * 2, ())()


def test_a_way_that_does_not_run_is_passed_over(machine, tmp_path):
    ways = tuple(way_of(machine, size) for size in (16, 64))
    kept = tmp_path / "kept" / "tiles.json"
    assert _triton.fastest("sweep", (failing(NO_MEMORY), *ways), ()) is ways[1]
    assert not kept.exists(), "with more memory another way may be the fastest"
    assert _triton.fastest("sweep", (failing(NO_TILE), *ways), ()) is ways[1]
    assert list(json.loads(kept.read_text()).values()) == [2]
    with pytest.raises(torch.OutOfMemoryError):
        _triton.fastest("sweep", (failing(NO_TILE), failing(NO_MEMORY)), ("none",))


def test_no_timing_when_switched_off(machine, monkeypatch, tmp_path):
    monkeypatch.setenv("FASTUNLEARN_TUNE", "0")
    machine.too_large = {16}
    assert machine.launch() == 32, "the first that fits"
    assert not machine.timed and not (tmp_path / "kept").exists()
    machine.runs.clear()
    assert machine.launch() == 32 and machine.runs == [32], "found out once"
    monkeypatch.delenv("FASTUNLEARN_TUNE")
    machine.seconds = {32: 2.0, 64: 1.0}
    assert machine.launch() == 64, "a guess does not count as timed"


def test_no_timing_while_a_graph_is_recorded(machine, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    machine.too_large = {16}
    assert machine.launch(trial=lambda: pytest.fail("nothing is tried")) == 32
    assert machine.runs == [32], "recorded once"
    assert not machine.timed


@pytest.mark.parametrize("rival", [False, True])
def test_switched_off_takes_no_choice_of_another_run(machine, monkeypatch, rival):
    """The same sums on every run, whatever was timed before here or in other processes."""
    machine.seconds[0] = 0.5
    how = {"rival": machine.rival} if rival else {}
    assert machine.launch(**how) == (0 if rival else 32)
    ways = tuple(way_of(machine, size) for size in (16, 32))
    assert _triton.fastest("sweep", ways, ()) is ways[1]
    monkeypatch.setenv("FASTUNLEARN_TUNE", "0")
    for _ in range(2):
        assert machine.launch(**how) == 16
        _triton.fastest("sweep", ways, ())()
        assert machine.runs[-1] == 16
        forget(monkeypatch)


def test_what_is_known_is_taken_while_a_graph_is_recorded(machine, monkeypatch):
    assert machine.launch() == 32
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert machine.launch() == 32
    forget(monkeypatch)
    assert machine.launch() == 32, "from the file"


def test_every_gpu_of_a_machine_for_itself(machine, monkeypatch):
    now = [0]
    monkeypatch.setattr(torch.cuda, "current_device", lambda: now[0])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: ((9, 0), (8, 6), (12, 0))[device])
    found = []
    for now[0] in (0, 1, 2, 0):
        found.append((_triton.architecture(), _triton.hopper()))
    _triton._architecture.cache_clear()
    assert found == [(90, True), (86, False), (120, False), (90, True)]
    for name in ("one GPU", "another"):
        monkeypatch.setattr(_triton, "_device", lambda name=name: name)
        machine.launch()
    assert len(machine.timed) == 6


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"a": "no number"}', '{"a": null}'])
def test_file_that_is_not_ours_is_timed_over(machine, tmp_path, text):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "tiles.json").write_text(text)
    assert machine.launch() == 32
    assert list(json.loads((tmp_path / "kept" / "tiles.json").read_text()).values()) == [1]
    assert len(list((tmp_path / "kept").iterdir())) == 1, "a temporary file is left"


def test_folder_that_cannot_be_written(machine, tmp_path):
    (tmp_path / "kept").write_text("a file where the folder should be")
    assert machine.launch() == 32
    assert machine.launch() == 32 and len(machine.timed) == 3


SWITCHES = """
import torch
from fastunlearn.ops import _triton
products = torch.backends.cuda.matmul
def show(*_):
    print(_triton.precision(torch.float32), end=" ")
show(torch.set_float32_matmul_precision("high")), show(torch.set_float32_matmul_precision("highest"))
for products.allow_tf32 in (True, False): show()
for products.fp32_precision in ("tf32", "ieee", "none"): show()
for torch.backends.fp32_precision in ("tf32", "ieee"): show()
print(_triton.precision(torch.bfloat16))
"""


def test_float32_products_follow_the_switches_of_pytorch():
    """Each is turned on and off again, in a process of its own: PyTorch refuses to read the older after the newer."""
    done = subprocess.run([sys.executable, "-c", SWITCHES], cwd=ROOT, capture_output=True, text=True)
    seen = " ".join(done.stdout.split())
    assert seen == "tf32 tf32x3 tf32 tf32x3 tf32 tf32x3 tf32x3 tf32 tf32x3 tf32x3", done.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("add, rounded", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("pair, shared", [(False, False), (True, False), (True, True)])
def test_the_rival_of_the_products(dtype, add, rounded, pair, shared, monkeypatch):
    """The library's product computes what the kernel would: all streams, transposed factors, sums that are added to,
    results in half precision that are rounded once."""
    from fastunlearn.ops import _triton_product

    plain = torch.mm, torch.addmm  # PyTorch takes out_dtype on a GPU alone
    for name, own in zip(("mm", "addmm"), plain, strict=True):
        def wide(*tensors, out, out_dtype=torch.float32, own=own):
            return own(*(t.to(out_dtype) for t in tensors), out=out)

        monkeypatch.setattr(torch, name, wide)
    given = {}

    def launch(kernel, grid, tiles, arguments, key=(), *, rival, trial):
        given["grid"], given["trial"] = trial()
        rival(given["trial"])
        rival(arguments)

    monkeypatch.setattr(_triton_product, "launch", launch)
    monkeypatch.setattr(_triton_product, "hopper", lambda: True)
    monkeypatch.setattr(_triton_product, "TRIAL_ROWS", 4)
    first = torch.randn(2, 11, 7).to(dtype).mT, torch.randn(11, 5).to(dtype)
    second = (torch.randn(11, 7).to(dtype).mT, torch.randn(2, 11, 5).to(dtype)) if pair else None
    if shared:
        second = (torch.randn(2, 7, 9).to(dtype), torch.randn(9, 5).to(dtype))
        first = torch.randn(2, 7, 9).to(dtype), torch.randn(5, 9).to(dtype).mT
    out = torch.randn(2, 7, 5).to(dtype if rounded else torch.float32)
    truth = out.double() * add + first[0].double() @ first[1].double()
    if second is not None:
        truth = truth + second[0].double() @ second[1].double()
    _triton_product.pair_product(first, second, out, add=add)
    once = 0.51 * torch.finfo(out.dtype).eps if rounded else 0.0
    torch.testing.assert_close(out.double(), truth, rtol=once + 1e-5, atol=1e-5)
    trial = given["trial"]["out"]
    assert trial.shape == (1, 4, 5) and given["trial"]["M"] == 4
    assert given["grid"](_triton.Tile({"BLOCK_M": 4, "BLOCK_N": 4})) == (2, 1)


def test_what_the_library_would_round_twice_has_no_rival(monkeypatch):
    from fastunlearn.ops import _triton_product

    seen = []
    monkeypatch.setattr(_triton_product, "launch", lambda *a, rival, trial, **k: seen.append(rival))
    monkeypatch.setattr(_triton_product, "hopper", lambda: True)
    a, b = torch.ones(3, 4, dtype=torch.bfloat16), torch.ones(4, 5, dtype=torch.bfloat16)
    half = torch.zeros(1, 3, 5, dtype=torch.bfloat16)
    _triton_product.pair_product((a, b), None, half, add=True)
    _triton_product.pair_product((a, b), None, torch.zeros(1, 3, 5), scale=torch.ones(4))
    _triton_product.pair_product((a, b), None, torch.zeros(1, 3, 5))
    _triton_product.pair_product((a, b), None, half)
    assert seen == [None, None, _triton_product.library_product, _triton_product.library_product]
