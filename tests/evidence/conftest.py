"""One small finished run with its evidence, made once; every test gets a copy of the folder to tamper with."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest

from fastunlearn.evidence import generate_key, write_evidence
from tests.evidence.small_run import finish, make_model


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """``place``: a folder with ``before``, ``after``, ``evidence``, ``keys`` and the salts. Do not change it."""
    place = tmp_path_factory.mktemp("run")
    make_model(place / "before")
    key = generate_key(place / "keys")
    run = finish(place)
    write_evidence(place / "evidence", run, key=key)
    run.log.close()
    return SimpleNamespace(place=place, key=key, public=place / "keys" / "public.pem", run=run)


@pytest.fixture
def evidence(finished, tmp_path):
    """A fresh copy of the evidence folder."""
    return shutil.copytree(finished.place / "evidence", tmp_path / "evidence")
