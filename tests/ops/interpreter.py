"""Runs checks of Triton kernels (interpreted/check_*.py) in Triton's interpreter.

It is switched on by an environment variable that is read when Triton is imported: each run has a process of its own.
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

__all__ = ["FOLDER", "patch_once", "run", "why_not"]

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "interpreted"


def release(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def why_not() -> str:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    old = release(importlib.metadata.version("triton")) < (3, 7)
    return "the interpreter of Triton < 3.7 needs NumPy < 2.4" if old and release(numpy.__version__) >= (2, 4) else ""


def patch_once() -> None:
    """Triton's language is prepared once for every module whose functions a launch calls. By itself the interpreter
    prepares it, hundreds of attributes, at every call of a function: a third of its time."""
    from triton.runtime.interpreter import GridExecutor, InterpretedFunction

    prepared: set[int] = set()
    launch, function = GridExecutor.__call__, InterpretedFunction.__call__

    def launch_afresh(self, *args, **kwargs):
        prepared.clear()
        return launch(self, *args, **kwargs)

    def call(self, *args, **kwargs):
        module = id(self.fn.__globals__)
        if module in prepared:
            return self.rewrite()(*args, **kwargs)
        prepared.add(module)
        return function(self, *args, **kwargs)

    GridExecutor.__call__, InterpretedFunction.__call__ = launch_afresh, call


def run(*files: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "FASTUNLEARN_BACKEND"}
    environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, files)]
    done = subprocess.run(command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout, done.stdout[-2000:]
