"""The sample document as a fixture (the file beside this one is also a script)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def sample() -> ModuleType:
    """The module tests/audit/sample_document.py."""
    path = Path(__file__).with_name("sample_document.py")
    specification = importlib.util.spec_from_file_location("sample_document", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def document(sample) -> dict:
    """A fresh sample document."""
    return sample.sample_document()
