"""The op tests pass on kernels built with AddressSanitizer and UBSan, and those would see an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
# Every op's kernels over shapes, strides and instruction sets; the full set is for `tests/sanitize.sh` by itself.
NAMES = "cpu or instruction_set or shapes or stride or threads"
CHOSEN = ["tests/ops", "-m", "not gpu and not slow", "-k", NAMES, "-x"]
OVERRUN = """
import torch
from fastunlearn import _cpu

def test_overrun():
    x, y = torch.zeros(64), torch.zeros(64)
    _cpu.null(x.data_ptr(), y.data_ptr(), 65, 1)
"""


def sanitize(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHON": sys.executable}
    environment.pop("PYTHONPATH", None)
    command = ["sh", str(ROOT / "tests" / "sanitize.sh"), str(folder), *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sanitized")


def test_ops_are_clean(folder):
    done = sanitize(folder, *CHOSEN)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " passed" in done.stdout


def test_an_overrun_is_seen(folder):
    """The negative control: reading and writing one element too many ends the process with a report."""
    (folder / "test_overrun.py").write_text(OVERRUN, encoding="utf-8")
    done = sanitize(folder, str(folder / "test_overrun.py"))
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stdout + done.stderr
