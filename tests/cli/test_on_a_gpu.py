"""The commands with ``--device cuda``, pretended (tests/emulated_cuda/device.py)."""

from __future__ import annotations

import json

import pytest


@pytest.mark.parametrize("method", ["fisher-removal", "npo"])
def test_unlearn_then_evaluate(command, records, make_model, tmp_path, gpu, method):
    before = make_model("original")
    sets = ("--forget", records["forget"], "--retain", records["retain"], "--held-out", records["held_out"])
    accounts = {}
    for device in ("cpu", "cuda"):
        with gpu(device):
            new = tmp_path / device
            common = (*sets, "--device", device, "--quiet")
            status, _, err = command("unlearn", "--model", before, "--out", new, "--method", method, *common)
            assert status == 0, err
            accounts[device] = json.loads((new / "unlearning.json").read_text())
            models = ("--model", before, "--model", new)
            status, _, err = command("evaluate", *models, "--out", tmp_path / f"{device}-report", *common)
            assert status == 0, err
    cpu, cuda = (accounts[device]["steps"][-1] for device in ("cpu", "cuda"))
    assert cuda["forget_loss"] == pytest.approx(cpu["forget_loss"], rel=1e-3)


def test_the_other_commands(command, records, make_model, tmp_path, gpu):
    before, kept = make_model("original"), tmp_path / "kept.safetensors"
    sets = ("--forget", records["forget"], "--retain", records["retain"], "--held-out", records["held_out"])
    lines = (
        ("train", "--data", records["forget"], records["retain"], "--out", tmp_path / "new", "--steps", 5,
         "--hidden-size", 16, "--heads", 2, "--layers", 1, "--context", 16),
        ("keep-fisher", "--model", before, "--data", records["retain"], "--out", kept, "--rank", 4),
        ("unlearn", "--model", before, "--forget", records["forget"], "--out", tmp_path / "without", "--method",
         "fisher-removal-retain-free", "--kept-fisher", kept),
        ("sweep", "--model", before, *sets, "--out", tmp_path / "sweep", "--vary", "steps=[2, 3]"),
    )  # fmt: skip
    with gpu("cuda"):
        for line in lines:
            status, _, err = command(*line, "--device", "cuda", "--quiet")
            assert status == 0, (line[0], err)
