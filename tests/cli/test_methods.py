"""``fastunlearn methods NAME``: every setting with its default, its values and its meaning."""

from __future__ import annotations

import dataclasses

import pytest

from fastunlearn.unlearn import METHODS
from fastunlearn.unlearn.meanings import settings_of


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_is_explained(name):
    found = {one.name: one for one in settings_of(METHODS[name])}
    assert list(found) == [one.name for one in dataclasses.fields(METHODS[name].settings)]
    for one in found.values():
        assert one.values and one.meaning.endswith("."), f"say in fastunlearn/unlearn/meanings.py what {one.name} means"


def test_the_table_of_one_method(command):
    status, out, err = command("methods", "fisher-removal")
    assert (status, err) == (0, "") and "Needs: retained records" in out and "--set NAME=VALUE" in out
    (line,) = [line for line in out.splitlines() if line.startswith("step_drift")]
    assert "0.001" in line and "a finite number above 0, or null" in line and "nats per token" in line
    assert "fisher_samples   null" in out and "blocks           auto" in out


def test_the_default_is_that_of_the_name(command):
    assert "loss             log-odds" in command("methods", "bounded-ascent")[1]
    assert "products          4" in command("methods", "gauss-newton-removal")[1]


def test_an_unknown_method_is_an_error(command):
    status, out, err = command("methods", "magic")
    assert (status, out) == (2, "") and "'magic' is unknown; use one of fisher-removal" in err
