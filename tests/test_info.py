"""``fastunlearn.info``: what it says where parts are there, and where they are not."""

from __future__ import annotations

import importlib
import json
from types import SimpleNamespace

import pytest
import torch

from fastunlearn.errors import BackendUnavailableError
from fastunlearn.info import info, info_text

module = importlib.import_module("fastunlearn.info")  # fastunlearn.info as an attribute is the function


def line(text: str, start: str) -> str:
    """The line of ``text`` that starts so, after its indent."""
    return next(one.strip() for one in text.splitlines() if one.strip().startswith(start))


def test_gpus_are_listed_with_name_capability_and_memory(monkeypatch):
    card = SimpleNamespace(name="A card", major=9, minor=0, total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    state = info()
    assert state["cuda"]["devices"] == [{"name": "A card", "capability": "9.0", "memory_bytes": 80 * 2**30}] * 2
    text = info_text(state)
    assert line(text, "device").split(None, 1)[1] == "A card, capability 9.0, 80 GiB"
    assert "none visible" not in text and json.loads(json.dumps(state)) == state


def test_architectures_of_a_build_with_cuda(monkeypatch):
    built = {"extensions": {"cuda": {"built": True, "archs": ["80", "90"], "nvcc": "12.8"}}}
    monkeypatch.setattr(module, "build_report", lambda: built)
    assert line(info_text(), "CUDA extension").endswith("built for 80, 90")


def test_without_the_cpu_extension(monkeypatch):
    def missing(backend):
        raise BackendUnavailableError("not built")

    monkeypatch.setattr(module, "extension", missing)
    monkeypatch.setattr(module, "why_not_live", lambda name: "" if name == "reference" else "no compiler that day")
    state = info()
    assert state["cpu"] == {"compiled": [], "live": [], "chosen": None, "openmp": False}
    text = info_text(state)
    assert line(text, "instruction set").endswith("none (live: none; compiled: none)")
    assert line(text, "OpenMP").split()[1] == "no,"
    assert line(text, "why: no compiler that day")


def test_an_instruction_set_that_cannot_run_is_said(monkeypatch):
    if not info()["cpu"]["compiled"]:
        pytest.skip("the CPU extension is not built")
    monkeypatch.setenv("FASTUNLEARN_CPU_ISA", "avx1024")
    state = info()
    assert state["cpu"]["chosen"] is None and state["cpu"]["live"]
    assert not state["backends"]["cpu"]["live"]
    assert "FASTUNLEARN_CPU_ISA='avx1024' cannot run here; use one of portable" in state["backends"]["cpu"]["reason"]


def test_a_package_that_is_not_there(monkeypatch):
    monkeypatch.setattr(module, "_PACKAGES", ("torch", "no-such-package"))
    state = info()
    assert state["versions"]["no-such-package"] is None
    assert line(info_text(state), "no-such-package").endswith("not installed")
