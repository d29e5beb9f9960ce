"""A model folder and files of records as a user would have them, and a short way to run a command."""

from __future__ import annotations

import json

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from fastunlearn.cli.main import main
from fastunlearn.data import train_tokenizer
from fastunlearn.storage import save_model

NAMES = ("anna", "bert", "cora", "dan", "eva", "finn", "gina", "hugo")
CITIES = ("rome", "oslo", "bern", "lima")


def write_records(path, names, first=0):
    rows = [
        {"prompt": f"{name} lives in", "completion": f" {CITIES[(i + first) % 4]}"}
        for i, name in enumerate(names)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def records(tmp_path):
    """Paths of forget, retain and held-out records, by name."""
    return {
        "forget": write_records(tmp_path / "forget.jsonl", NAMES[:2]),
        "retain": write_records(tmp_path / "retain.jsonl", NAMES[2:6], 2),
        "held_out": write_records(tmp_path / "held_out.jsonl", NAMES[6:], 1),
    }


@pytest.fixture
def make_model(tmp_path):
    """``make_model(name, seed=0, words=())``: the path of a new model folder whose tokenizer knows the
    records."""
    from torch import manual_seed

    def make(name, seed=0, words=()):
        texts = [*NAMES, *CITIES, "lives in", *words]
        tokenizer = train_tokenizer(texts)
        manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                num_attention_heads=2, max_position_embeddings=16, bos_token_id=1, eos_token_id=2,
                pad_token_id=0,
            )
        )  # fmt: skip
        save_model(model, tokenizer, tmp_path / name)
        return str(tmp_path / name)

    return make


@pytest.fixture
def command(capsys):
    """``command("train", ...)``: exit status, stdout and stderr of that command line."""

    def run(*arguments):
        try:
            status = main([str(one) for one in arguments])
        except SystemExit as stop:  # argparse
            status = stop.code
        return status, *capsys.readouterr()

    return run
