"""The benchmark of the Gram's two ways, where some of them give wrong results."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from bench import ghost_gram, readme_figures
from fastunlearn.microbench import harness

CASE = {"samples": 8, "length": 4, "d_in": 16, "d_out": 16}


@pytest.fixture(autouse=True)
def no_new_process(monkeypatch):
    monkeypatch.setattr(ghost_gram, "peak_bytes", lambda *_: 1)


@pytest.mark.parametrize(("wrong", "words"), [(1.1, "rejected: error"), (float("nan"), "rejected: not finite")])
def test_a_wrong_way_has_no_time_and_the_other_is_the_fastest(wrong, words, monkeypatch, capsys):
    own = ghost_gram.formed_gram
    monkeypatch.setattr(ghost_gram, "formed_gram", lambda *tensors: own(*tensors) * wrong)
    found = ghost_gram.measure(CASE, "cpu", 1)
    assert found["route"]["fastest"] == "ghost" and found["route"]["of"] == 1
    ghost_gram.report(found)
    assert words in capsys.readouterr().out
    json.dumps(found, allow_nan=False)


def test_no_way_of_ours_is_right(monkeypatch, capsys, tmp_path):
    """Nothing is the fastest, the report and the README say so."""
    for name in ("formed_gram", "ghost_gram"):
        own = getattr(ghost_gram, name)
        monkeypatch.setattr(ghost_gram, name, lambda *tensors, own=own, **how: own(*tensors, **how) * (
            1.0 if how else float("nan")))  # fmt: skip
    found = ghost_gram.measure(CASE, "cpu", 1)
    assert found["route"]["fastest"] is None
    ghost_gram.report(found)
    record = json.loads((readme_figures.RESULTS / "cpu-ghost-gram.json").read_text(encoding="utf-8"))
    record["cases"] = [copy.deepcopy(found)]
    assert readme_figures.ghost_gram(record, "cpu").count("rejected: not finite") == 2


def test_a_way_of_others_that_fails_leaves_ours(monkeypatch):
    def fails(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ghost_gram, "token_products", fails)
    found = ghost_gram.measure(CASE, "cpu", 1)["ways"]
    assert ghost_gram.refusal(found[ghost_gram.BASELINE]) == "failed: OutOfMemoryError: CUDA out of memory"
    assert "seconds" in found["fastunlearn: ghost"]


def test_memory_on_a_gpu_starts_no_process(monkeypatch):
    monkeypatch.setattr(ghost_gram, "peak_bytes", lambda *_: pytest.fail("a new process"))
    monkeypatch.setattr(ghost_gram, "peak_here", lambda run, device: 5)
    monkeypatch.setattr(ghost_gram, "choose_route", lambda *_: "ghost")
    monkeypatch.setattr(ghost_gram, "formed_cost", lambda *_: 1.0)
    monkeypatch.setattr(harness, "_synchronize", lambda device: None)
    for name in ("ways", "truth"):
        own = getattr(ghost_gram, name)
        monkeypatch.setattr(ghost_gram, name, lambda case, device, own=own: own(case, "cpu"))
    found = ghost_gram.measure(CASE, "cuda", 1)["ways"]
    assert {way["peak_bytes"] for way in found.values()} == {5}
