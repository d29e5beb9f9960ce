"""Saved models come back bit for bit, and a failed save leaves the disk as it was."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastunlearn.errors import InvalidInputError, OutputError
from fastunlearn.storage import files, load_model, save_model


def no_space(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ["tiny_llama", "tiny_gpt2"])
@pytest.mark.parametrize("tied", [False, True])
def test_round_trip_is_exact(tmp_path, request, tokenizer, architecture, dtype, tied):
    model = request.getfixturevalue(architecture)(dtype, tied=tied)
    assert save_model(model, tokenizer, tmp_path / "out") == tmp_path / "out"
    for loaded in (
        AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto", local_files_only=True),
        load_model(tmp_path / "out")[0],
    ):
        assert loaded.state_dict().keys() == model.state_dict().keys()
        for name, weight in model.state_dict().items():
            assert loaded.state_dict()[name].dtype == dtype
            assert torch.equal(loaded.state_dict()[name], weight), name
        same = loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
        assert same is tied
    assert os.listdir(tmp_path) == ["out"]


def test_tokenizer_generation_settings_and_extras_are_there(tmp_path, tiny_llama, tokenizer):
    model = tiny_llama()
    model.generation_config.max_new_tokens = 7
    save_model(model, tokenizer, tmp_path / "out", extra={"unlearning.json": {"method": "x"}})
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True)
    assert loaded.generation_config.max_new_tokens == 7
    again = AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    assert again("the cat 12").input_ids == tokenizer("the cat 12").input_ids
    assert again.pad_token == tokenizer.pad_token
    assert json.loads((tmp_path / "out" / "unlearning.json").read_text()) == {"method": "x"}


def test_generation_settings_that_transformers_refuses_to_write_are_kept(tmp_path, tiny_llama, tokenizer):
    model = tiny_llama()
    model.generation_config.temperature = 0.6  # without do_sample: read with a warning, refused on writing
    with pytest.raises(ValueError):
        model.save_pretrained(tmp_path / "plain")
    save_model(model, tokenizer, tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert stored["temperature"] == 0.6 and stored["eos_token_id"] == 2
    assert model.generation_config.temperature == 0.6


def test_nothing_is_printed(tmp_path, tiny_llama, tokenizer, capfd):
    save_model(tiny_llama(), tokenizer, tmp_path / "out")
    assert capfd.readouterr() == ("", "")


def test_existing_folder_is_refused_unless_overwrite(tmp_path, tiny_llama, tokenizer, snapshot):
    save_model(tiny_llama(), tokenizer, tmp_path / "out", extra={"note.json": 1})
    before = snapshot(tmp_path)
    other = tiny_llama(seed=1)
    with pytest.raises(OutputError, match="already"):
        save_model(other, tokenizer, tmp_path / "out")
    assert snapshot(tmp_path) == before
    save_model(other, tokenizer, tmp_path / "out", overwrite=True)
    assert torch.equal(load_model(tmp_path / "out")[0].lm_head.weight, other.lm_head.weight)
    assert os.listdir(tmp_path) == ["out"] and not (tmp_path / "out" / "note.json").exists()


def test_model_can_be_saved_over_the_folder_it_came_from(folder, tokenizer):
    model, tokenizer = load_model(folder)
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    save_model(model, tokenizer, folder, overwrite=True)
    assert torch.equal(load_model(folder)[0].lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize("place", ["fsync", "rename", "disk_usage", "tokenizer"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_full_disk_leaves_everything(
    folder, tmp_path, tiny_llama, tokenizer, snapshot, monkeypatch, place, overwrite
):
    before = snapshot(tmp_path)
    if place == "disk_usage":
        usage = shutil.disk_usage(tmp_path)._replace(free=5000)
        monkeypatch.setattr(files.shutil, "disk_usage", lambda _path: usage)
    elif place == "tokenizer":
        monkeypatch.setattr(type(tokenizer), "save_pretrained", no_space)
    else:
        monkeypatch.setattr(files.os, place, no_space)
    out = folder if overwrite else tmp_path / "new" / "out"
    with pytest.raises(OutputError, match="space"):
        save_model(tiny_llama(), tokenizer, out, overwrite=overwrite)
    assert snapshot(tmp_path) == before


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are those of POSIX")
def test_write_that_the_system_cuts_off_leaves_nothing(tmp_path, folder, snapshot):
    """The kernel itself stops the weight file part of the way, which no monkeypatch stands in for."""
    script = """
        import resource, signal, sys
        from fastunlearn.errors import OutputError
        from fastunlearn.storage import load_model, save_model
        model, tokenizer = load_model(sys.argv[1])
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
        try:
            save_model(model, tokenizer, sys.argv[2])
        except OutputError as error:
            print("OutputError", error)
    """
    before = snapshot(tmp_path)
    assert (folder / "model.safetensors").stat().st_size > 9000
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(folder), str(tmp_path / "out")],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.stdout.startswith("OutputError"), done.stderr
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["../x.json", "weights.bin", "a/b.json"])
def test_extra_names_are_plain(tmp_path, tiny_llama, tokenizer, name):
    with pytest.raises(InvalidInputError, match="extra"):
        save_model(tiny_llama(), tokenizer, tmp_path / "out", extra={name: 1})
    assert list(tmp_path.iterdir()) == []


def test_extra_that_is_no_json_leaves_nothing(tmp_path, tiny_llama, tokenizer):
    with pytest.raises(InvalidInputError, match=r"note\.json"):
        save_model(tiny_llama(), tokenizer, tmp_path / "out", extra={"note.json": float("nan")})
    assert list(tmp_path.iterdir()) == []
