"""Without ``cryptography`` nothing can be said of a signature: an error, and no word against the folder."""

from __future__ import annotations

import sys

import pytest

from fastunlearn.cli.main import main
from fastunlearn.errors import InvalidInputError
from fastunlearn.evidence import verify


@pytest.fixture
def no_cryptography(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)


def test_verify_is_an_error_and_accuses_nobody(evidence, no_cryptography, capsys):
    assert main(["verify", str(evidence)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "pip install cryptography" in err and err.count("\n") == 1


def test_it_is_said_before_anything_is_read(no_cryptography, tmp_path):
    with pytest.raises(InvalidInputError, match="pip install cryptography"):
        verify(tmp_path / "nowhere")


def test_keygen_makes_nothing(no_cryptography, tmp_path, capsys):
    assert main(["keygen", "--out", str(tmp_path / "keys")]) == 2
    assert "pip install cryptography" in capsys.readouterr().err and not (tmp_path / "keys").exists()
