"""Without the package that signs, a run is refused before anything is computed or written."""

from __future__ import annotations

import sys

import pytest

from fastunlearn.cli.main import main
from fastunlearn.production import run as module


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_run_that_could_not_be_signed_does_not_begin(place, monkeypatch, capsys, more):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    monkeypatch.setattr(module, "load_model", lambda *_args, **_options: pytest.fail("a model was loaded"))
    before = sorted(place.iterdir())
    assert main(["unlearn", "--config", ".", "--quiet", *more]) == 2
    assert "pip install cryptography" in capsys.readouterr().err and sorted(place.iterdir()) == before


def test_requests_stay_open(place, monkeypatch, capsys):
    assert main(["requests", "add", "--id", "R-1", "--records", "forget.jsonl"]) == 0
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    assert main(["requests", "run", "--quiet"]) == 2 and main(["requests", "status", "R-1"]) == 0
    out, err = capsys.readouterr()
    assert "pip install cryptography" in err and "Request R-1: open" in out
    assert not (place / "state-0001").exists() and not (place / "after-0001").exists()
