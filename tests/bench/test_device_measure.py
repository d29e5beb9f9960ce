"""How often a way runs, and what of it the clock sees: on a stand-in for a GPU that executes its queue later."""

from __future__ import annotations

import pytest
import torch

from bench.device import measure
from bench.device.measure import Bench

CYCLES = 2e9  # of the stand-in, in a second


class Gpu:
    """One stream and a host, each with its own time; the stream does nothing before the host asked for it."""

    def __init__(self):
        self.host = self.stream = 0.0

    def work(self, seconds: float) -> None:
        self.stream = max(self.stream, self.host) + seconds

    def synchronize(self) -> None:
        self.host = max(self.host, self.stream)

    def event(self, enable_timing: bool):
        gpu = self

        class Event:
            def record(self):
                gpu.work(0.0)
                self.at = gpu.stream

            def synchronize(self):
                gpu.synchronize()

            def elapsed_time(self, other) -> float:
                return 1e3 * (other.at - self.at)

        return Event()


@pytest.fixture
def gpu(monkeypatch) -> Gpu:
    found = Gpu()
    for name, value in {
        "synchronize": found.synchronize, "Event": found.event, "max_memory_allocated": lambda: 10,
        "memory_allocated": lambda: 3, "reset_peak_memory_stats": lambda: None, "empty_cache": lambda: None,
        "_sleep": lambda cycles: found.work(cycles / CYCLES),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(measure.time, "perf_counter", lambda: found.host)
    return found


def kernels(gpu: Gpu, count: int, launch: float, seconds: float, runs: list):
    def run():
        runs.append(1)
        for _ in range(count):
            gpu.host += launch
            gpu.work(seconds)

    return run


def test_the_host_is_not_timed_with_a_kernel(gpu):
    """Ten kernels of 10 us whose launches take 100 us each: 1 ms until Python is done, 100 us of the GPU's."""
    found = Bench("cuda", False, 5).measure(kernels(gpu, 10, 1e-4, 1e-5, []))
    assert found["seconds"] == pytest.approx(1e-4) and found["host_seconds"] == pytest.approx(1e-3)
    assert found["peak_bytes"] == 7


def test_the_host_of_a_whole_program_counts(gpu):
    found = Bench("cuda", False, 5).measure(kernels(gpu, 100, 1e-3, 1e-4, []))
    assert found["seconds"] == pytest.approx(0.1, rel=0.01)


@pytest.mark.parametrize(("seconds", "most"), [(0.5, 13), (2.0, 3), (20.0, 2)])
def test_slow_ways_run_two_or_three_times(gpu, seconds, most):
    runs: list = []
    found = Bench("cuda", False, 10).measure(kernels(gpu, 1, 1e-5, seconds, runs))
    assert len(runs) == most and found["seconds"] == pytest.approx(seconds, rel=1e-3)
    runs.clear()
    Bench("cuda", False, 1).measure(kernels(gpu, 1, 1e-5, seconds, runs))
    assert len(runs) <= (4 if seconds < 1 else 2)
