"""Every Triton kernel in Triton's interpreter, float32, against the reference in float64.

The interpreter is switched on by an environment variable that is read when Triton is imported, so the checks
(tests/ops/interpreted/check_*.py) run in a process of their own. Products of bfloat16 are wrong in the interpreter:
half precision is compiled ahead of time here (test_triton_compiles.py), and runs on a GPU (bench/device.sh check).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

HERE = Path(__file__).resolve().parent


def release(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def why_not() -> str:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    old = release(importlib.metadata.version("triton")) < (3, 7)
    return "the interpreter of Triton < 3.7 needs NumPy < 2.4" if old and release(numpy.__version__) >= (2, 4) else ""


FILES = sorted((HERE / "interpreted").glob("check_*.py"))
assert FILES


@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_kernels_in_the_interpreter(file):
    environment = {k: v for k, v in os.environ.items() if k != "FASTUNLEARN_BACKEND"}
    environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout, done.stdout[-2000:]
