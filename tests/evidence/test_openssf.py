"""The signature in OpenSSF model signing's format, checked by that package itself."""

from __future__ import annotations

import dataclasses
import shutil
import stat
import subprocess
import sys

import pytest

from fastunlearn.cli.main import main
from fastunlearn.errors import InvalidInputError
from fastunlearn.evidence import EvidenceLog, openssf, verify, write_evidence
from tests.evidence.forging import edit, resign


@pytest.fixture
def signed(finished, tmp_path):
    """An evidence folder with both signatures, and the folder of the keys."""
    pytest.importorskip("model_signing")
    assert main(["keygen", "--openssf", "--out", str(tmp_path / "keys")]) == 0
    shutil.copytree(finished.place / "private", tmp_path / "private")
    with EvidenceLog(tmp_path / "log.jsonl", run="run-7") as log:
        run = dataclasses.replace(finished.run, log=log, salts=tmp_path / "private" / "salts.json")
        write_evidence(tmp_path / "evidence", run, key=tmp_path / "keys" / "private.pem")
    return tmp_path / "evidence", tmp_path / "keys"


def test_both_signatures_hold(signed):
    folder, keys = signed
    assert stat.S_IMODE((keys / openssf.PRIVATE).stat().st_mode) == 0o600
    found = verify(folder, public_key=keys / "public.pem", openssf_public_key=keys / openssf.PUBLIC)
    assert found.passed and found["openssf"].passed, found.text()


def test_the_projects_own_tool_verifies_the_model(signed, finished, tmp_path):
    folder, keys = signed
    model = shutil.copytree(finished.place / "after", tmp_path / "handed-over")
    line = ["-m", "model_signing", "verify", "key", str(model), "--signature", str(folder / "openssf-model.sig"),
            "--public_key", str(keys / openssf.PUBLIC)]  # fmt: skip
    done = subprocess.run([sys.executable, *line], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    options = {"openssf_public_key": keys / openssf.PUBLIC, "model": model}
    assert verify(folder, **options)["openssf model"].passed
    (model / "config.json").write_text("{}")
    assert "config.json" in verify(folder, **options)["openssf model"].says
    assert subprocess.run([sys.executable, *line], capture_output=True, timeout=600).returncode != 0


def test_the_projects_own_tool_verifies_the_folder(signed):
    folder, keys = signed
    line = ["-m", "model_signing", "verify", "key", str(folder), "--signature", str(folder / "openssf.sig"),
            "--public_key", str(keys / openssf.PUBLIC)]  # fmt: skip
    done = subprocess.run([sys.executable, *line], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    edit(folder, "configuration.json", "configuration", value={})
    assert subprocess.run([sys.executable, *line], capture_output=True, timeout=600).returncode != 0


def test_a_change_is_told_even_where_the_rest_was_signed_again(signed):
    folder, keys = signed
    edit(folder, "configuration.json", "configuration", value={})
    resign(folder, keys / "private.pem")
    assert verify(folder).passed
    found = verify(folder, openssf_public_key=keys / openssf.PUBLIC)
    assert "configuration.json" in found["openssf"].says and not found.passed


def test_another_key_does_not_verify(signed, tmp_path):
    folder, _ = signed
    (tmp_path / "other").mkdir()
    openssf.generate_openssf_key(tmp_path / "other")
    assert verify(folder, openssf_public_key=tmp_path / "other" / openssf.PUBLIC)["openssf"].passed is False


def test_without_a_key_of_that_kind_there_is_no_such_signature(evidence, finished):
    assert not list(evidence.glob("openssf*"))


def test_without_the_package_the_mend_is_named(monkeypatch, tmp_path, evidence):
    monkeypatch.setattr(openssf, "available", lambda: False)
    with pytest.raises(InvalidInputError, match="pip install model-signing pyOpenSSL"):
        openssf.need()
    assert main(["keygen", "--openssf", "--out", str(tmp_path / "keys")]) == 2 and not (tmp_path / "keys").exists()
