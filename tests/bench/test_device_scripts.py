"""The scripts that a GPU machine runs work: a dry run on the CPU, on tiny shapes, by the reference."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(module: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", module, "--device", "cpu", "--toy", "--out", str(folder), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_check(tmp_path):
    done = run("bench.device.check", tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    rows = json.loads((tmp_path / "check.json").read_text())["cases"]
    assert len(rows) > 500 and all(row["passed"] for row in rows)


@pytest.mark.slow
def test_timings(tmp_path):
    done = run("bench.device.timings", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    for subject in ("attention", "cross-entropy", "ghost-gram", "explicit-rows", "hvp"):
        cases = json.loads((tmp_path / f"device-{subject}.json").read_text())["cases"]
        ours = [result for case in cases for name, result in case["ways"].items() if not name.startswith("torch")]
        assert ours and all("seconds" in result for result in ours), cases
    whole = json.loads((tmp_path / "device-hvp.json").read_text())["cases"][0]
    assert whole["error"] < 0.05
