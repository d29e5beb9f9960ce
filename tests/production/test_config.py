"""fastunlearn.toml: what is wrong is refused by name, what is right arrives, and the page on it is up to date."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest

from fastunlearn.errors import InvalidInputError, OutputError, UnknownMethodError
from fastunlearn.production import job
from fastunlearn.production.config import NAME, check_method, load_config, make_config, method_settings
from fastunlearn.production.documentation import page, starter_toml, toml_value
from fastunlearn.production.schema import SECTIONS
from fastunlearn.production.starter import new_folder

ROOT = Path(__file__).resolve().parents[2]
LEAST = {"model": {"folder": "m"}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"modle": {}}, ["[modle]", "'model'"]),
        ({"zzz": {}}, ["[zzz]", "model, data, method"]),
        ({"data": {"retian": "x"}}, ["data.retian", "'retain'"]),
        ({"data": {"qqqq": "x"}}, ["data.qqqq", "forget, retain, held_out"]),
        ({"data": {"max_length": "many"}}, ["data.max_length", "integer of at least 0", "a string"]),
        ({"data": {"max_length": -1}}, ["data.max_length", "at least 0", "-1"]),
        ({"data": {"max_length": True}}, ["data.max_length", "True"]),
        ({"data": {"truncate": 1}}, ["data.truncate", "true or false", "1"]),
        ({"data": "forget.jsonl"}, ["data must be a table"]),
        ({"plan": {"price_per_hour": float("nan")}}, ["plan.price_per_hour", "nan"]),
        ({"plan": {"price_per_hour": float("inf")}}, ["plan.price_per_hour", "inf"]),
        ({"plan": {"price_per_hour": 10**400}}, ["plan.price_per_hour", "a number of at least 0"]),
        ({"method": {"parameters": "all"}}, ["method.parameters", "a list of strings", "a string"]),
        ({"method": {"parameters": [1]}}, ["method.parameters", "a list of strings"]),
        ({"method": {"seed": 2**32}}, ["method.seed", "4294967295"]),
        ({"method": {"settings": 1}}, ["method.settings", "a table"]),
        ({"evidence": {"lang": "fr"}}, ["evidence.lang", "'en', 'ja'"]),
        ({"model": {}}, ["model.folder is missing"]),
        ({"model": {"folder": " "}}, ["model.folder", "not empty"]),
        ({"model": {"folder": "a\0b"}}, ["model.folder"]),
    ],
)
def test_what_is_wrong_is_named(change, words):
    with pytest.raises(InvalidInputError) as caught:
        make_config({**LEAST, **change}, "place/fastunlearn.toml")
    assert all(word in str(caught.value) for word in ["fastunlearn.toml", *words]), caught.value


def test_the_model_table_is_needed():
    with pytest.raises(InvalidInputError, match=r"\[model\] is missing"):
        make_config({"data": {}})


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"[model\n", "TOML"), (b"[model]\nfolder = 1\nfolder = 2\n", "TOML"), (b"\xff\xfe", "UTF-8"),
     (b"x = 1" + b"0" * 5000, "TOML"), (b"x = " + b"[" * 5000, "TOML"),
     (None, "new FOLDER")],
)  # fmt: skip
def test_files_that_cannot_be_read(tmp_path, content, word):
    path = tmp_path / "fastunlearn.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=word):
        load_config(path)


def test_everything_arrives_and_paths_are_the_files(tmp_path):
    text = '[model]\nfolder = "m"\n[data]\nretain = "../r.csv"\n[method]\nparameters = ["*.mlp.*"]\n'
    text += '[plan]\nprice_per_hour = 2\n[method.settings]\nkl_budget = "none"\nsteps = 3\n'
    (tmp_path / "fastunlearn.toml").write_text(text)
    config = load_config(tmp_path)
    assert config.place(config.data.retain) == tmp_path.parent / "r.csv"
    assert config.method.parameters == ("*.mlp.*",) and config.plan.price_per_hour == 2
    assert method_settings(config) == {"kl_budget": None, "steps": 3}
    assert check_method(config).kl_budget is None and check_method(config).steps == 3
    assert config.to_dict()["method"]["parameters"] == ["*.mlp.*"]


def test_a_data_set_of_the_hub_is_no_path(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(job, "load_records", lambda source: seen.append(source) or [])
    config = make_config({**LEAST, "data": {"forget": "hub:people/mira", "retain": "r.csv"}}, tmp_path / NAME)
    assert [job.read_set(config, name) for name in ("forget", "retain")] == [[], []]
    assert seen == ["hub:people/mira", tmp_path / "r.csv"]


@pytest.mark.parametrize(
    ("method", "data", "words"),
    [
        ({"name": "magic"}, {"retain": "r"}, ["magic", "fisher-removal"]),
        ({"settings": {"dampnig": 1}}, {"retain": "r"}, ["dampnig", "damping"]),
        ({"memory": "much"}, {"retain": "r"}, ["method.memory"]),
        ({"kept_fisher": "k"}, {"retain": "r"}, ["kept_fisher", "leave it out"]),
        ({"name": "fisher-removal-retain-free"}, {}, ["kept_fisher is needed"]),
        ({}, {}, ["data.retain is needed"]),
        ({"name": "npo", "settings": {"retain_weight": 1.0}}, {}, ["data.retain is needed"]),
    ],
)
def test_the_method_is_checked(method, data, words):
    with pytest.raises((InvalidInputError, UnknownMethodError)) as caught:
        check_method(make_config({**LEAST, "method": method, "data": data}))
    assert all(word in str(caught.value) for word in words), caught.value


def test_the_page_is_made_from_the_schema():
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == page()
    for name, section in SECTIONS.items():
        for field in dataclasses.fields(section):
            assert f"| `{field.name}` |" in page().split(f"## [{name}]")[1], f"{name}.{field.name}"
            assert field.metadata["doc"].strip()


def test_the_starter_file_names_every_key_with_its_default():
    """Its comments, made into settings, are the defaults."""
    text = starter_toml({"model": {"folder": "m"}})
    lines = [line[2:] if line.startswith("# ") and " = " in line.split("  ")[0] else line for line in text.splitlines()]
    values = tomllib.loads("\n".join(line for line in lines if not line.startswith("#")))
    assert make_config(values) == make_config(LEAST)
    for name, section in SECTIONS.items():
        assert set(values[name]) == {field.name for field in dataclasses.fields(section)}


@pytest.mark.parametrize("value", ['a "b" \\ c', "tab\tand\x01", "ö\x7f", ["a", "b"], True, 3, 0.25, []])
def test_values_are_written_as_toml_reads_them(value):
    assert tomllib.loads(f"x = {toml_value(value)}") == {"x": value}


def test_a_new_folder_has_what_its_configuration_names(tmp_path):
    folder = new_folder(tmp_path / "start", seed=3)
    config = load_config(folder)
    for name in ("forget", "retain", "held_out"):
        assert config.place(getattr(config.data, name)).is_file()
    check_method(config)
    with pytest.raises(OutputError, match="already"):
        new_folder(folder)
