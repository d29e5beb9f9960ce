"""Ways whose memory does not fit beside each other: each in a process of its own, one after another.

The harness's ``compare`` has all ways in one process, in turn. Some packages keep gigabytes of graphs after a call, or
after a failure, and the next way then has no room. Here a way's first call gives its result and its peak memory, the
calls after it the times. A process that asks for more than ``memory`` gets an error from the allocator, and the way is
reported as failed with that reason.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .harness import OURS, peak_here, relative_error

__all__ = ["compare_apart"]


def _ask(module: str, case: dict, way: str, rounds: int, memory: int, result: Path) -> dict:
    """What the process of one way says: {"seconds": [...], "peak_bytes": ...} or {"reason": ...}."""
    ask = {"module": module, "case": case, "way": way, "rounds": rounds, "memory": memory, "result": str(result)}
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "fastunlearn.microbench.apart", "--ask", json.dumps(ask)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.strip().splitlines()[-1])
    words = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
    return {"reason": words[-1][:240]}


def compare_apart(
    module: str, case: dict, ways: list[str], truth: Tensor, gate: float, *, rounds: int, memory: int
) -> dict:
    """As the harness's ``compare``, with "peak_bytes", for the ways of ``module.ways(case)`` by name; the result that a
    way returns is no part of its peak's baseline. ``memory``: bytes that one process may have.

    Raises RuntimeError where our own way fails.
    """
    results: dict[str, dict] = {}
    for way in ways:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "result.safetensors"
            said = _ask(module, case, way, rounds, memory, path)
            if "reason" in said:
                if way == OURS:
                    raise RuntimeError(f"{way}: {said['reason']}")
                results[way] = {"gate": "failed", "reason": said["reason"]}
                continue
            error = relative_error(load_file(path)["result"], truth)
        if error > gate:
            results[way] = {"error": error if math.isfinite(error) else None, "gate": "rejected"}
            continue
        results[way] = {
            "error": error, "gate": "passed", "seconds": statistics.median(said["seconds"]),
            "seconds_least": min(said["seconds"]), "rounds": rounds, "peak_bytes": said["peak_bytes"],
        }  # fmt: skip
    return results


def _limit(memory: int) -> None:
    """Limits this process's data; both limits, as a soft one alone could be raised again by a package."""
    import resource  # not on Windows

    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures one way (called by compare_apart).")
    parser.add_argument("--ask", required=True, type=json.loads)
    ask = parser.parse_args().ask
    _limit(ask["memory"])
    ways = importlib.import_module(ask["module"]).ways(ask["case"], "cpu")
    way = next(way for way in ways if way.name == ask["way"])
    if way.prepare is not None:
        way.prepare()
    made: list[Tensor] = []
    peak = peak_here(lambda: made.append(way.run()), "cpu")
    save_file({"result": made.pop().contiguous()}, ask["result"])
    seconds = []
    for _ in range(ask["rounds"]):
        gc.collect()
        start = time.perf_counter()
        way.run()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
