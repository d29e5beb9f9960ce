"""How every benchmark measures: side by side, correct first, and honest about the machine.

- All ways get the same inputs and threads and run in turn, round by round, in one process, so that noise of the
  machine hits all of them alike. Reported are medians, and ratios to a named baseline.
- A way whose result differs from float64 by more than the gate is reported as rejected, without a time.
- Peak memory is measured in a process of its own per way: the high-water mark of resident memory during one call,
  less what was resident before it (so inputs do not count). Linux only; on CUDA the allocator's own peak.
- The JSON names versions and the machine, and neither host name nor paths.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from fastunlearn.resources import trim
from fastunlearn.storage import files

__all__ = [
    "OURS", "Peaks", "Way", "compare", "machine", "peak_bytes", "peak_here", "record", "relative_error", "versions",
    "write_json",
]  # fmt: skip


#: What our own way is called in every record.
OURS = "fastunlearn"


@dataclass(frozen=True)
class Peaks:
    """What the machine reaches: in matrix products, and in copies (read and written)."""

    gflop_per_s: float
    gb_per_s: float


@dataclass(frozen=True)
class Way:
    """One way to compute the same thing: a name and a function without arguments that returns a tensor.

    ``prepare`` builds what ``run`` needs (a model, say) and is never timed. ``ours``: whether it may not fail.
    """

    name: str
    run: Callable[[], torch.Tensor]
    prepare: Callable[[], object] | None = None
    ours: bool = True


def relative_error(got: torch.Tensor, truth: torch.Tensor) -> float:
    """Largest error over the largest element of ``truth`` (float64); infinite where ``got`` is not finite."""
    if not bool(torch.isfinite(got).all()):
        return float("inf")
    return ((got.double().cpu() - truth.cpu()).abs().max() / truth.abs().max().cpu()).item()


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def compare(
    ways: list[Way], truth: torch.Tensor, gate: float, baseline: str, *, rounds: int = 5, device: str = "cpu"
) -> dict:
    """Seconds (median, least), error and ratio to ``baseline`` of every way.

    ``truth``: the result in float64. ``gate``: the largest relative error that is let through to the clock.
    """
    results, passed = {}, []
    for way in ways:  # this is the warm-up as well
        if way.prepare is not None:
            way.prepare()
        try:
            result = way.run()
        except Exception as failure:
            if way.ours:
                raise
            reason = str(failure).strip().splitlines() or [type(failure).__name__]
            results[way.name] = {"gate": "failed", "reason": f"{type(failure).__name__}: {reason[0][:200]}"}
            del failure
            gc.collect()  # its graph would take the memory of the ways after it
            continue
        error = relative_error(result, truth)
        found = error if math.isfinite(error) else None  # strict JSON has no infinity
        results[way.name] = {"error": found, "gate": "passed" if error <= gate else "rejected"}
        if error <= gate:
            passed.append(way)
    seconds: dict[str, list[float]] = {way.name: [] for way in passed}
    gc.collect()
    gc.freeze()  # what is there by now stays, so that the collections below look at the ways' garbage alone
    try:
        for _ in range(rounds):
            for way in passed:
                gc.collect()
                _synchronize(device)
                start = time.perf_counter()
                way.run()
                _synchronize(device)
                seconds[way.name].append(time.perf_counter() - start)
    finally:
        gc.unfreeze()
        gc.collect()  # the last way's graph may hold gigabytes in a cycle, and memory is measured next
    for name, times in seconds.items():
        results[name] |= {"seconds": statistics.median(times), "seconds_least": min(times), "rounds": rounds}
    if "seconds" in results.get(baseline, {}):
        for name in seconds:
            results[name]["times_faster_than_baseline"] = results[baseline]["seconds"] / results[name]["seconds"]
    return results


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def peak_here(run: Callable[[], object], device: str) -> int:
    """Bytes that a call takes at its peak, above those before it, in this process."""
    if device.startswith("cuda"):
        run()  # the first call loads kernels and libraries
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    gc.collect()
    trim()  # memory that the C library holds for reuse would serve the call without being counted
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # sets the high-water mark back
    before = _status("VmRSS")
    run()
    return max(0, _status("VmHWM") - before)


def peak_bytes(module: str, case: dict, way: str, device: str = "cpu") -> int | None:
    """Peak memory above the baseline of ``way`` of ``module.ways(case, device)``, measured in a new process.

    None where the system cannot say (not Linux). The threads are those of this process.
    """
    if device == "cpu" and not Path("/proc/self/clear_refs").exists():
        return None
    ask = json.dumps({"module": module, "case": case, "way": way, "device": device})
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "fastunlearn.microbench.harness", "--peak", ask]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"measuring the memory of {way} failed: {done.stderr[-2000:]}")
    return int(done.stdout.strip().splitlines()[-1])


def machine(device: str = "cpu") -> dict:
    """Processor, cores, threads, memory and, for CUDA, the device."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    state = {"cpu": name, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "system": platform.system()}
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(0)
        state |= {"gpu": properties.name, "gpu_capability": f"{properties.major}.{properties.minor}"}
    return state


def versions() -> dict:
    from fastunlearn.info import info

    state = info()
    return state["versions"] | {"cpu_isa": state["cpu"]["chosen"], "cuda": state["cuda"]["torch_cuda"]}


def record(title: str, settings: dict, cases: list[dict], device: str = "cpu") -> dict:
    """What the JSON of one benchmark holds."""
    return {
        "benchmark": title,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "settings": settings,
        "machine": machine(device),
        "versions": versions(),
        "cases": cases,
    }


def write_json(path: Path, title: str, settings: dict, cases: list[dict], device: str = "cpu") -> None:
    """The record of one benchmark, written whole or not at all."""
    files.write_json(path, record(title, settings, cases, device))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the peak memory of one way (called by peak_bytes).")
    parser.add_argument("--peak", required=True, type=json.loads)
    ask = parser.parse_args().peak
    ways = importlib.import_module(ask["module"]).ways(ask["case"], ask["device"])
    way = next(way for way in ways if way.name == ask["way"])
    if way.prepare is not None:
        way.prepare()
    print(peak_here(way.run, ask["device"]))


if __name__ == "__main__":
    main()
