"""A tiny model that knows invented people by heart: trained once, copied for every test."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fastunlearn.data import generate_people, train_tokenizer
from fastunlearn.data.encode import encode
from fastunlearn.training import train

CONTEXT = 32


def _train(tied: bool) -> SimpleNamespace:
    people = generate_people(16, 3, forget_people=3, held_out_people=8, canaries=2, seed=0)
    tokenizer = train_tokenizer(people.texts())
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=CONTEXT, pad_token_id=0, bos_token_id=1, eos_token_id=2, tie_word_embeddings=tied,
        attn_implementation="eager",
    )  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = LlamaForCausalLM(config)
        samples = encode(people.forget + people.retain, tokenizer, max_length=CONTEXT)
        train(model, samples, steps=220, learning_rate=5e-3, seed=0, pad_token_id=0)
    finally:
        torch.set_num_threads(threads)
    return SimpleNamespace(model=model, tokenizer=tokenizer, people=people)


@pytest.fixture(scope="session")
def trained():
    """``model`` (do not change it: use ``world``), ``tokenizer`` and ``people``."""
    return _train(tied=False)


@pytest.fixture(scope="session")
def trained_tied():
    """As ``trained``, with tied embeddings."""
    return _train(tied=True)


def _copy(found: SimpleNamespace) -> SimpleNamespace:
    data = {name: list(getattr(found.people, name)) for name in ("forget", "retain", "held_out")}
    return SimpleNamespace(model=copy.deepcopy(found.model), tokenizer=found.tokenizer, data=data)


@pytest.fixture
def world(trained, threads):
    """A fresh copy: ``model``, ``tokenizer`` and ``data``, the three sets by name. One thread, so that runs can be
    compared bit for bit."""
    threads(1)
    return _copy(trained)


@pytest.fixture
def tied_world(trained_tied, threads):
    """As ``world``, with tied embeddings."""
    threads(1)
    return _copy(trained_tied)
