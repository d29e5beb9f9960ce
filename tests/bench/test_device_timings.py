"""What is left of timings where something fails on the way."""

from __future__ import annotations

import json

import pytest
import torch

from bench.device import output_layer, timings
from bench.device.measure import Bench


def written(folder, subject: str) -> dict:
    return json.loads((folder / f"dry-{subject}.json").read_text())


def fails(*_args, **_more):
    raise RuntimeError("illegal memory access\nmore of it")


@pytest.fixture
def bench() -> Bench:
    return Bench("cpu", True, 1)


def test_a_kernel_of_ours_that_fails_leaves_the_other_ways(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(output_layer, "hessian_product", fails)
    assert timings.time_subject(bench, "cross-entropy", tmp_path) == 0
    found = written(tmp_path, "cross-entropy")
    ways = found["cases"][0]["ways"]
    assert ways["fastunlearn"] == {"failed": "RuntimeError: illegal memory access"} and found["settings"]["whole"]
    assert "seconds" in ways[output_layer.DOUBLE]


def test_a_case_that_cannot_be_set_up_leaves_the_others(bench, tmp_path, monkeypatch):
    """And what it had measured; NaN is no number of strict JSON."""

    def broken(case):
        case["ways"]["first"] = {"seconds": float("nan")}
        yield
        fails()

    def good(case):
        case["ways"]["only"] = {"seconds": 1.0}
        yield

    monkeypatch.setitem(timings.SUBJECTS, "systems", lambda _: [({"ways": {}}, broken), ({"ways": {}}, good)])
    assert timings.time_subject(bench, "systems", tmp_path) == timings.FAILED
    assert written(tmp_path, "systems")["cases"] == [
        {"ways": {"first": {"seconds": None}}, "failed": "RuntimeError: illegal memory access"},
        {"ways": {"only": {"seconds": 1.0}}},
    ]


def test_a_subject_that_is_stopped_leaves_what_it_measured(bench, tmp_path, monkeypatch):
    def stopped(case):
        case["ways"]["first"] = {"seconds": 1.0}
        yield
        raise KeyboardInterrupt

    monkeypatch.setitem(timings.SUBJECTS, "systems", lambda _: [({"ways": {}}, stopped)])
    with pytest.raises(KeyboardInterrupt):
        timings.time_subject(bench, "systems", tmp_path)
    found = written(tmp_path, "systems")
    assert found["cases"] == [{"ways": {"first": {"seconds": 1.0}}}] and not found["settings"]["whole"]


def test_a_lost_gpu_ends_the_subject_with_its_failure_written(bench, tmp_path, monkeypatch):
    """No call on the GPU may raise out of the handler, and nothing is measured after it."""
    monkeypatch.setattr(torch.cuda, "synchronize", fails)
    monkeypatch.setattr(torch.cuda, "empty_cache", fails)

    def fill(case):
        bench.cuda = True
        case["ways"]["first"] = bench.measure(fails)
        yield
        case["ways"]["second"] = bench.measure(lambda: pytest.fail("it ran on a lost GPU"))
        yield

    monkeypatch.setitem(timings.SUBJECTS, "systems", lambda _: [({"ways": {}}, fill)] * 2)
    assert timings.time_subject(bench, "systems", tmp_path) == timings.CUT
    found = written(tmp_path, "systems")
    assert found["cases"][0]["ways"]["first"] == {"failed": "RuntimeError: illegal memory access"}
    assert len(found["cases"]) == 1 and not found["settings"]["whole"]


def test_what_failed_is_freed_before_the_next_way(bench, monkeypatch):
    alive = []

    class Held(list):
        """Stands for a graph that is held by the frames of what failed."""

    def run():
        import weakref

        held = Held()
        held.append(held)
        alive.append(weakref.ref(held))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(bench, "tidy", lambda tidy=bench.tidy: (tidy(), alive.append(alive[0]()))[0])
    assert bench.measure(run) == {"failed": "OutOfMemoryError: CUDA out of memory"}
    assert alive[1] is None


def test_a_rate_that_cannot_be_measured_leaves_its_shares_out(bench, monkeypatch):
    monkeypatch.setattr(bench, "draw", lambda *_: torch.ones(2, 3))  # no square product
    result = {"seconds": 1.0}
    bench.share_of_product_rate(result, 10.0)
    assert result == {"seconds": 1.0} and bench.rates() == {"product_operations_per_second": None}
