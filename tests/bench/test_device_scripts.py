"""The scripts that a GPU machine runs work: a dry run on the CPU, on tiny shapes, by the reference; then on a pretended
GPU by the kernels that one would run (pretended_device.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.device.timings import SUBJECTS
from tests.ops.interpreter import why_not

ROOT = Path(__file__).resolve().parents[2]


def run(module: str, folder: Path, *arguments: str, device: str = "cpu") -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}
    script = ["tests.bench.pretended_device", module]
    if device == "cpu":
        del environment["TRITON_INTERPRET"]
        del script[0]
    command = [sys.executable, "-m", *script, "--device", device, "--toy", "--out", str(folder), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)


@pytest.mark.slow
def test_check(tmp_path):
    """All cases in one process, and shared out to two: the same rows."""
    found = []
    for processes in ("0", "2"):
        done = run("bench.device.check", tmp_path / processes, "--processes", processes)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        rows = json.loads((tmp_path / processes / "check.json").read_text())["cases"]
        assert len(rows) > 500 and all(row["passed"] for row in rows)
        found.append(sorted((row["case"], row.get("dtype", ""), row.get("result", "")) for row in rows))
        assert [path.name for path in (tmp_path / processes).iterdir()] == ["check.json"]
    assert found[0] == found[1]


@pytest.mark.slow
def test_timings(tmp_path):
    done = run("bench.device.timings", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    for subject in SUBJECTS:
        cases = json.loads((tmp_path / f"dry-{subject}.json").read_text())["cases"]
        assert cases and all("seconds" in way for case in cases for way in case["ways"].values()), cases


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_on_a_pretended_gpu(tmp_path, emulated_cuda):
    """No time passes there; every way of ours runs, and where values are compared they agree."""
    done = run("bench.device.small_run,bench.device.check,bench.device.timings", tmp_path, device="cuda")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.startswith("done\n"), "what the sanitizers are given"
    record = json.loads((tmp_path / "check.json").read_text())
    assert record["settings"]["backends"] == ["triton", "cuda"]
    assert len(record["cases"]) > 200 and all(row["passed"] for row in record["cases"])
    found = {path.stem: json.loads(path.read_text())["cases"] for path in tmp_path.glob("pretended-*.json")}
    ways = [way for cases in found.values() for case in cases for way in case["ways"].items()]
    ours = [result for name, result in ways if not name.startswith("torch")]
    assert len(found) == len(SUBJECTS) and len(ours) >= 20 and all("seconds" in result for result in ours), found
    assert max(found["pretended-attention"][0]["errors"].values()) < 1e-5
    assert found["pretended-cross-entropy"][0]["difference_of_hx"] < 1e-5 and found["pretended-hvp"][0]["error"] < 1e-5
