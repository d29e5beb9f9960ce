"""``pytest bench --benchmark-only`` runs the same cases as the command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_cases_run_under_pytest_benchmark(tmp_path):
    out = tmp_path / "benchmark.json"
    command = [
        sys.executable, "-m", "pytest", "bench", "--benchmark-only", "-q", "--shape", "llama-tiny", "--tokens", "9",
        "--samples", "3", "--what", "lowrank", f"--benchmark-json={out}", "--benchmark-max-time=0.05",
        "--benchmark-min-rounds=2", "-p", "no:cacheprovider",
    ]  # fmt: skip
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    found = json.loads(out.read_text())["benchmarks"]
    assert {one["extra_info"]["way"] for one in found} == {"fastunlearn", "torch: explicit gradients"}
    assert all(one["extra_info"]["error"] < 1e-4 and one["stats"]["median"] > 0 for one in found)
