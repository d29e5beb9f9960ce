"""A folder as ``fastunlearn new`` makes it, small, with a tiny model that has learnt its records."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from fastunlearn.data import encode, generate_people, train_tokenizer
from fastunlearn.storage import save_model
from fastunlearn.training import build_model, train

CONTEXT = 48
TOML = """
[model]
folder = "original"
[data]
forget = "forget.jsonl"
retain = "retain.jsonl"
held_out = "held_out.jsonl"
[method.settings]
steps = 3
target_accuracy = 0.0
target_loss = 50.0
[run]
threads = 1
[pilot]
width = 16
layers = 1
steps = 120
learning_rate = 0.02
"""


def write_records(path, records):
    rows = ({"prompt": one.prompt, "completion": one.completion} for one in records)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """The folder, to be copied."""
    folder = tmp_path_factory.mktemp("production") / "start"
    folder.mkdir()
    people = generate_people(10, 2, forget_people=2, held_out_people=6, canaries=0, seed=1)
    for name in ("forget", "retain", "held_out"):
        write_records(folder / f"{name}.jsonl", getattr(people, name))
    (folder / "fastunlearn.toml").write_text(TOML, encoding="utf-8")
    tokenizer = train_tokenizer(people.texts())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = build_model(tokenizer, hidden_size=16, layers=1, heads=2, context=CONTEXT, seed=0)
    samples = encode(people.forget + people.retain, tokenizer, max_length=CONTEXT)
    train(model, samples, steps=150, batch_size=20, learning_rate=0.02, seed=0, pad_token_id=0)
    torch.set_num_threads(threads)
    save_model(model, tokenizer, folder / "original")
    return folder


@pytest.fixture
def place(start, tmp_path, monkeypatch, threads):
    """A copy of its own, as the current folder."""
    threads(1)
    shutil.copytree(start, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"
