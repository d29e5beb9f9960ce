"""SIGKILL at 20 random moments of a production run of requests: each ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRIALS = 20


@pytest.mark.slow
def test_killed_at_random_and_started_again(start, tmp_path):
    shutil.copytree(start, tmp_path / "start")
    arguments = [str(tmp_path / "start"), str(TRIALS), "0", str(tmp_path / "found.json")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.production.killing", *arguments],
        capture_output=True, text=True, timeout=600, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    whole = found["whole"]
    assert found["status"] == 0 and whole["wrong"] == [] and len(found["trials"]) == TRIALS
    assert whole["requests"] == [[name, "done", "evidence-0001", 0] for name in ("R-1", "R-2")]
    for number, trial in enumerate(found["trials"]):
        assert trial["status"] == 0, (number, done.stderr[-3000:])
        for name in ("weights", "requests", "left", "wrong"):
            assert trial[name] == whole[name], (number, name)
    assert all(trial["kills"] >= 1 for trial in found["trials"])
