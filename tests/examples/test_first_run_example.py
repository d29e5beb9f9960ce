"""A new user's path from an empty folder to verified evidence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_from_nothing_to_verified_evidence(tmp_path):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "first_run.py"), str(tmp_path / "start")], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "VERIFIED" in done.stdout and "NOT VERIFIED" not in done.stdout
    folder = tmp_path / "start"
    assert (folder / "evidence-0001" / "report.html").is_file() and (folder / "pilot" / "pilot.json").is_file()
    assert not (folder / "state-0001").exists()


def test_a_command_that_fails_ends_it_with_a_word(tmp_path):
    """Not with a traceback, and under ``python -O`` too."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    (tmp_path / "start").mkdir()
    done = subprocess.run(
        [sys.executable, "-O", str(ROOT / "examples" / "first_run.py"), str(tmp_path / "start")], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "is there already" in done.stderr and "ended with status 2" in done.stderr
