"""The scripts of examples/second_order run, and show a failure without ``accelerate`` and a result with it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "second_order"
SCRIPTS = {
    "with_torch_func.py": "torch", "with_curvlinops.py": "curvlinops", "with_pyhessian.py": "pyhessian",
    "with_hessian_eigenthings.py": "hessian_eigenthings",
}  # fmt: skip


def test_every_script_is_here():
    assert set(SCRIPTS) == {path.name for path in FOLDER.glob("with_*.py")}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_script(script):
    if importlib.util.find_spec(SCRIPTS[script]) is None:
        pytest.skip(f"{SCRIPTS[script]} is not installed (extra: bench)")
    root = str(FOLDER.parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, str(FOLDER / script)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    assert "implement" in lines["without accelerate"] or "support" in lines["without accelerate"]
    assert "=" in lines["with accelerate"] and "nan" not in lines["with accelerate"]
