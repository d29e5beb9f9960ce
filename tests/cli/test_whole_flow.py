"""Train, keep, unlearn, evaluate, with nothing in the place of anything: the commands as a user types
them."""

from __future__ import annotations

import json

import pytest

from fastunlearn.unlearn import METHODS


@pytest.fixture
def trained(command, records, tmp_path):
    status, _, err = command(
        "train", "--data", records["forget"], records["retain"], "--out", tmp_path / "original",
        "--steps", 100, "--hidden-size", 16, "--heads", 2, "--layers", 1, "--context", 16, "--batch-size", 6,
        "--learning-rate", 0.02, "--quiet",
    )  # fmt: skip
    assert status == 0, err
    return tmp_path / "original"


@pytest.mark.parametrize("method", ["fisher-removal", "gradient-difference"])
def test_unlearn_then_evaluate(command, records, tmp_path, trained, method):
    sets = ("--forget", records["forget"], "--retain", records["retain"], "--held-out", records["held_out"])
    status, _, err = command(
        "unlearn", "--model", trained, "--out", tmp_path / "new", "--method", method, *sets, "--quiet"
    )
    assert status == 0, err
    account = json.loads((tmp_path / "new" / "unlearning.json").read_text())
    assert account["method"] == method and account["gradients"] > 0
    models = ("--model", trained, "--model", tmp_path / "new")
    status, _, err = command("evaluate", *models, "--out", tmp_path / "report", *sets, "--quiet")
    assert status == 0, err
    document = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    before, after = (one["metrics"]["forget"] for one in (document["original"], document["methods"]["new"]))
    assert before["accuracy"] == 1 and after["loss"] > before["loss"]


def test_unknown_setting_names_the_known_ones(command, records, tmp_path, trained):
    status, _, err = command(
        "unlearn", "--model", trained, "--out", tmp_path / "new", "--forget", records["forget"], "--retain",
        records["retain"], "--set", "dampnig=1",
    )  # fmt: skip
    assert status == 2 and "dampnig" in err and "damping" in err and not (tmp_path / "new").exists()


def test_unlearning_without_retain_data(command, records, tmp_path, trained):
    kept = tmp_path / "kept.safetensors"
    line = ("keep-fisher", "--model", trained, "--data", records["retain"], "--out", kept, "--rank", 4)
    status, _, err = command(*line, "--quiet")
    assert status == 0 and kept.is_file(), err
    status, _, err = command(
        "unlearn", "--model", trained, "--forget", records["forget"], "--out", tmp_path / "new", "--method",
        "fisher-removal-retain-free", "--kept-fisher", kept, "--quiet",
    )  # fmt: skip
    assert status == 0, err
    assert json.loads((tmp_path / "new" / "unlearning.json").read_text())["method"].endswith("retain-free")


def test_methods_lists_the_real_ones(command):
    status, out, _ = command("methods")
    assert status == 0 and all(name in out for name in METHODS)
