"""A copy of the sources to build in, so that a test never touches the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md",
         "Makefile")  # fmt: skip
FOLDERS = ("csrc", "fastunlearn", "tests", "bench", "docs", "examples")


def copy_sources(to: Path) -> Path:
    """The sources without anything compiled, in ``to``."""
    for name in FILES:
        if (ROOT / name).exists():
            shutil.copy2(ROOT / name, to / name)
    waste = shutil.ignore_patterns("*.so", "*.o", "__pycache__", "_build_report.json")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, to / name, ignore=waste)
    return to


def run_python(folder: Path, *arguments: str, timeout: int = 300, **environment: str) -> subprocess.CompletedProcess:
    """Python in ``folder``; only the package in that folder can be imported from a checkout."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FASTUNLEARN_") and k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env={**clean, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def _build_tools():
    for name in ("setuptools", "pybind11", "pip"):
        pytest.importorskip(name)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    return copy_sources(tmp_path / "tree")


@pytest.fixture
def python():
    return run_python
