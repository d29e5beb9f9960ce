"""``fastunlearn unlearn`` with a real model: what goes wrong leaves every file as it was, and nothing new."""

from __future__ import annotations

import errno
import json
import shutil
from collections import namedtuple

import pytest
from transformers import LlamaForCausalLM

from fastunlearn.cli.main import main
from fastunlearn.storage import load_model, save_model
from fastunlearn.unlearn.monitor import Monitor
from tests.unlearn.unchanged import bits, files, same_bits

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def folder(world, tmp_path):
    """``model/`` and ``forget.jsonl``, ``retain.jsonl``, ``held_out.jsonl``."""
    save_model(world.model, world.tokenizer, tmp_path / "model")
    for name, records in world.data.items():
        rows = [{"prompt": record.prompt, "completion": record.completion} for record in records]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def run(folder, capsys):
    """``run(*options)``: status and stderr of the command; the options replace the usual ones of that name."""

    def go(*options, out="new"):
        usual = {"--model": "model", "--forget": "forget.jsonl", "--retain": "retain.jsonl",
                 "--held-out": "held_out.jsonl"}  # fmt: skip
        line = [part for name, file in usual.items() for part in (name, str(folder / file))]
        status = main(["unlearn", "--quiet", *line, "--out", str(folder / out), *map(str, options)])
        return status, capsys.readouterr().err

    return go


@pytest.fixture
def fails(run, folder):
    """``fails(word, ..., *options)``: the command ends with status 2 and one line with that word; no file changes."""

    def check(word, *options, status=2, **more):
        before = files(folder)
        found, err = run(*options, **more)
        assert found == status and word in err and err.count("\n") == 1 and err.startswith("fastunlearn: "), err
        assert files(folder) == before

    return check


def test_it_works_when_nothing_is_wrong(run, folder, world):
    """Without this the tests below could pass for the wrong reason."""
    before = files(folder)
    status, err = run()
    assert (status, err) == (0, "")
    assert {k: v for k, v in files(folder).items() if not k.startswith("new")} == before
    new, _ = load_model(folder / "new")
    assert not same_bits(bits(new), bits(world.model))
    account = json.loads((folder / "new" / "unlearning.json").read_text())
    assert account["method"] == "fisher-removal" and account["stopped"].startswith("reached")


@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
def test_model_folder_cut_short(fails, folder, part):
    weights = folder / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: int(part * weights.stat().st_size)])
    fails("model")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_model_folder_without_a_file(fails, folder, name):
    (folder / "model" / name).unlink()
    fails("model")


def test_empty_forget_file(fails, folder):
    (folder / "forget.jsonl").write_text("\n")
    fails("forget.jsonl")


def test_overlap(fails, folder):
    fails("overlap", "--retain", folder / "forget.jsonl")


def test_bad_settings(fails):
    fails("damping=0", "--set", "damping=0")
    fails("damping='NaN'", "--set", "damping=NaN")
    fails("it has", "--set", "dampnig=1")
    fails("matches no parameter", "--parameters", "*.mpl.*")
    fails("fisher-forgetting", "--method", "magic")


@pytest.mark.parametrize("overwrite", [False, True])
def test_no_space(fails, folder, monkeypatch, overwrite):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 30, (1 << 30) - 10, 10))
    if overwrite:
        fails("free", "--overwrite", out="model")
    else:
        fails("free")


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_disk_fills_up_while_writing(fails, monkeypatch, overwrite):
    def full(model, stage, **options):
        (stage / "model.safetensors").write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", full)
    if overwrite:
        fails("No space left", "--overwrite", out="model")
    else:
        fails("No space left")


def test_ctrl_c_after_the_first_step(fails, monkeypatch):
    look = Monitor.look

    def stopped(monitor, step, **more):
        if step == 1:
            raise KeyboardInterrupt
        return look(monitor, step, **more)

    monkeypatch.setattr(Monitor, "look", stopped)
    fails("Ctrl-C", "--overwrite", out="model", status=130)


def test_kept_fisher_cut_short(fails, folder):
    path = folder / "fisher.safetensors"
    data = folder / "all.jsonl"
    data.write_text((folder / "forget.jsonl").read_text() + (folder / "retain.jsonl").read_text())
    keep = ["keep-fisher", "--quiet", "--model", folder / "model", "--data", data, "--out", path]
    assert main([str(part) for part in keep]) == 0
    path.write_bytes(path.read_bytes()[:-1])
    fails("damaged", "--method", "fisher-removal-retain-free", "--kept-fisher", path)
