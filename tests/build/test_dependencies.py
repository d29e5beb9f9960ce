"""Everything that the sources import is declared in pyproject.toml, so that a bare install works."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

#: Where the package's name is not that of what it installs.
DISTRIBUTIONS = {"trak": "traker", "curvlinops": "curvlinops_for_pytorch", "hydra": "hydra_core"}
ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def declared(*extras: str) -> set[str]:
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return {re.match(r"[A-Za-z0-9_.-]+", line).group().lower().replace("-", "_") for line in lines}


def imported(folder: str) -> dict[str, str]:
    """Top-level packages that the Python files of ``folder`` import, each with one file that does."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in names:
                found.setdefault(name.partition(".")[0], path.relative_to(ROOT).as_posix())
    own = {"fastunlearn", "bench", "tests"} | {path.stem for path in (ROOT / folder).rglob("*.py")}
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names and name not in own}


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("fastunlearn", list(PROJECT["optional-dependencies"])),
        ("bench", ["bench", "gpu", "test"]),  # its cases run under pytest-benchmark
        ("examples", ["bench"]),  # those on other tools need these tools
        ("tests", ["test", "bench", "integrations"]),  # tests with other tools skip where these are not installed
    ],
)
def test_what_is_imported_is_declared(folder, extras):
    known = declared(*extras)
    missing = {name: path for name, path in imported(folder).items() if DISTRIBUTIONS.get(name, name) not in known}
    assert not missing


def test_the_scan_sees_what_is_there():
    assert {"torch", "transformers", "safetensors", "tokenizers", "datasets"} <= imported("fastunlearn").keys()


def test_datasets_is_only_imported_where_it_is_used():
    """It is optional: no module may need it to be imported."""
    for path in (ROOT / "fastunlearn").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                assert "datasets" not in [alias.name for alias in node.names], path.name
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert node.module != "datasets", path.name
