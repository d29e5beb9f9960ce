"""The long low-rank benchmarks go on where they stopped, and their points are what they say."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from bench import lowrank_cost, lowrank_growth


def test_the_driver_goes_on_with_what_is_missing(tmp_path, monkeypatch):
    out = tmp_path / "cost.json"
    sizes = ["--samples", "4", "--tokens", "8", "--batch-size", "2", "--layers", "1", "--weights", "300"]
    called = []

    real = lowrank_cost.subprocess.run

    def run(command, **options):
        if "bench.lowrank_cost" not in command:
            return real(command, **options)
        way = command[command.index("bench.lowrank_cost") + 1]
        called.append(way)
        return SimpleNamespace(returncode=int(len(called) == 2), stdout=json.dumps({"seconds": 2.0 * len(called)}))

    monkeypatch.setattr(lowrank_cost.subprocess, "run", run)
    names = list(lowrank_cost.WAYS)
    kept = {name: lowrank_cost.WAYS[name] for name in (names[0], names[-2], names[-1])}
    monkeypatch.setattr(lowrank_cost, "WAYS", kept)
    monkeypatch.setattr(sys, "argv", ["lowrank_cost", "all", "--out", str(out), "--work", str(tmp_path), *sizes])
    with pytest.raises(SystemExit, match="failed with 1"):
        lowrank_cost.main()
    assert called == ["gradient", "stored"]
    lowrank_cost.main()
    assert called == ["gradient", "stored", "stored", "woodfisher"]  # the gradient was there already
    cases = json.loads(out.read_text())["cases"]
    assert [c["way"] for c in cases] == list(kept) and [c["of one gradient"] for c in cases] == [1.0, 3.0, 4.0]
    lowrank_cost.main()
    assert len(called) == 4


def test_ways_on_stored_gradients():
    options = SimpleNamespace(samples=4, weights=300, width=100)
    for way in (lowrank_cost.stored, lowrank_cost.woodfisher):
        found = way(options)
        assert found["seconds"] > 0 and found["bytes of G"] == 4 * 300 * 4


def test_a_point_of_the_growth_curve():
    found = lowrank_growth.point(6, 8, "50MB")
    assert found["samples"] == 6 and found["seconds"] >= found["gram and factor"] > 0
    assert found["predicted seconds"] > 0 and found["predicted bytes"] > 0 and found["kept factors"]


def test_the_prediction_grows_with_samples_and_tokens():
    rates = {"ghost": 1e11, "products": 1e11, "cholesky": 1e10}
    one = lowrank_growth.predicted_seconds(64, 32, rates, False)
    assert lowrank_growth.predicted_seconds(128, 32, rates, False) > 1.9 * one
    assert lowrank_growth.predicted_seconds(64, 64, rates, False) > 1.5 * one
    assert lowrank_growth.predicted_seconds(64, 32, rates, True) > one
