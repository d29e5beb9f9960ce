"""One version of PyTorch is named wherever one is installed by version: by hand, by make, and in the Dockerfile."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def text(name: str) -> str:
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"{name} is not in this copy of the sources")
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["Dockerfile", "README.md", "docs/quickstart.md"])
def test_the_same_torch_as_the_makefile(name):
    (made,) = re.findall(r"^TORCH \?= (torch==[\d.]+)$", text("Makefile"), flags=re.MULTILINE)
    found = re.findall(r"torch==[\d.]+\d", text(name))
    assert found and set(found) == {made}


@pytest.mark.parametrize("name", ["Dockerfile", "Makefile", "README.md", "docs/quickstart.md", "tools/build_wheels.sh"])
def test_the_same_build_tools_as_pyproject(name):
    (listed,) = re.findall(r"^requires = \[(.*)\]$", text("pyproject.toml"), flags=re.MULTILINE)
    for tool in re.findall(r'"([^"]+)"', listed):
        assert tool in text(name), f"{name} installs the build's tools by hand: {tool} is missing"


def test_the_dockerfile_demands_both_parts_by_the_switches_of_setup():
    docker, setup = text("Dockerfile"), text("setup.py")
    assert "FASTUNLEARN_CPU=1 FASTUNLEARN_CUDA=1" in docker and "--no-build-isolation" in docker
    (archs,) = re.findall(r'^ARG ARCHS="([^"]+)"$', docker, flags=re.MULTILINE)
    assert f'"FASTUNLEARN_CUDA_ARCHS", "{archs}"' in setup
    assert docker.index('"${TORCH}"') < docker.index("COPY . /src")  # torch first, by version
