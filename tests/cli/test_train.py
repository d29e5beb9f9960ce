"""A model from scratch: it learns, it can be read by transformers, and it is the same for the same seed."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file
from torch import equal
from transformers import AutoModelForCausalLM, AutoTokenizer

SMALL = ("--hidden-size", 16, "--heads", 2, "--layers", 1, "--context", 16, "--batch-size", 4)


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_model_learns_the_records(command, records, tmp_path, kind):
    out = tmp_path / "model"
    status, text, _ = command(
        "train", "--data", records["forget"], records["retain"], "--out", out, *SMALL, "--steps", 150,
        "--learning-rate", 0.02, "--tokenizer", kind, "--vocab-size", 400, "--quiet",
    )  # fmt: skip
    assert status == 0 and str(out) in text
    account = json.loads((out / "training.json").read_text())
    assert account["records"] == 6 and account["steps"] == 150 and account["final_loss"] < 0.2
    model = AutoModelForCausalLM.from_pretrained(out, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(out, local_files_only=True)
    prompt = tokenizer("<bos>anna lives in", return_tensors="pt").input_ids
    answer = model.generate(prompt, max_new_tokens=12, do_sample=False)[0, prompt.shape[1] :]
    assert tokenizer.decode(answer).strip().startswith("rome")


def test_same_seed_same_weights(command, records, tmp_path):
    line = ("train", "--data", records["forget"], *SMALL, "--steps", 3, "--quiet")
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert command(*line, "--out", tmp_path / out, "--seed", seed)[0] == 0
    first, same, other = (load_file(tmp_path / out / "model.safetensors") for out in "abc")
    assert all(equal(first[name], same[name]) for name in first)
    assert not equal(first["lm_head.weight"], other["lm_head.weight"])


def test_tokenizer_of_another_model(command, records, tmp_path):
    """What a model retrained on fewer records needs, to be compared with the first."""
    line = ("train", *SMALL, "--steps", 2, "--quiet")
    assert command(*line, "--data", records["forget"], records["retain"], "--out", tmp_path / "a")[0] == 0
    options = ("--data", records["retain"], "--tokenizer-from", tmp_path / "a")
    assert command(*line, *options, "--out", tmp_path / "b")[0] == 0
    first, second = (AutoTokenizer.from_pretrained(tmp_path / name, local_files_only=True) for name in "ab")
    assert first.get_vocab() == second.get_vocab()
    status, _, err = command(*line, "--data", records["retain"], "--tokenizer-from", tmp_path, "--out", tmp_path / "c")
    assert status == 2 and err.count("\n") == 1 and not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [(("--heads", 3), "--heads 3"), (("--layers", 0), "--layers"), (("--context", 1), "--context"),
     (("--steps", 0), "steps"), (("--batch-size", 0), "batch_size"), (("--vocab-size", 3), "vocab_size"),
     (("--device", "warp"), "device='warp'"), (("--context", 3), "record, or raise --context"),
     (("--data", "nowhere.jsonl"), "nowhere.jsonl")],
)  # fmt: skip
def test_wrong_options_are_one_line_and_leave_nothing(command, records, tmp_path, options, word):
    before = sorted(tmp_path.iterdir())
    status, out, err = command(
        "train", "--data", records["forget"], "--out", tmp_path / "m", *SMALL, "--quiet", *options
    )
    assert (status, out) == (2, "") and err.startswith("fastunlearn: error: ") and err.count("\n") == 1
    assert word in err
    assert sorted(tmp_path.iterdir()) == before


def test_existing_out_is_refused_before_anything_is_read(command, tmp_path):
    (tmp_path / "m").mkdir()
    status, _, err = command("train", "--data", tmp_path / "missing.jsonl", "--out", tmp_path / "m")
    assert status == 2 and "already" in err
