"""The example runs as a newcomer would run it, and forgets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_example_forgets_and_keeps(tmp_path):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "unlearn.py"), "--report", str(tmp_path / "report")],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    before, after = document["original"], document["methods"]["fisher-removal"]
    assert before["forget_accuracy"] > 0.9
    assert after["forget_accuracy"] <= before["metrics"]["held_out"]["accuracy"]  # as records never seen
    assert after["retain_accuracy"] > before["retain_accuracy"] - 0.05
    assert f"{after['gradients']} gradients" in done.stdout and (tmp_path / "report" / "report.html").is_file()


def test_it_offers_only_methods_that_need_no_file(capsys):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "unlearn.py"), "--method", "fisher-removal-retain-free"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2 and "invalid choice" in done.stderr
