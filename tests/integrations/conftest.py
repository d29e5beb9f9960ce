"""A tiny Llama that knows invented people by heart, for tests with other packages."""

from __future__ import annotations

import copy
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fastunlearn.data import generate_people, train_tokenizer
from fastunlearn.data.encode import encode
from fastunlearn.training import train

CONTEXT = 32


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """accelerate keeps one state for the process; every test starts without one."""
    yield
    state = sys.modules.get("accelerate.state")
    if state is not None:
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()


@pytest.fixture(scope="session")
def memorised() -> SimpleNamespace:
    """``model``, ``tokenizer``, and the records ``forget``, ``retain``, ``held_out``. Do not change: see ``world``."""
    people = generate_people(8, 3, forget_people=2, held_out_people=4, canaries=0, seed=0)
    tokenizer = train_tokenizer(people.texts())
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=CONTEXT, pad_token_id=0, bos_token_id=1, eos_token_id=2, attn_implementation="eager",
    )  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = LlamaForCausalLM(config)
        samples = encode(people.forget + people.retain, tokenizer, max_length=CONTEXT)
        train(model, samples, steps=160, learning_rate=1e-2, seed=0, pad_token_id=0)
    finally:
        torch.set_num_threads(threads)
    return SimpleNamespace(model=model.eval(), tokenizer=tokenizer, forget=list(people.forget),
                           retain=list(people.retain), held_out=list(people.held_out))  # fmt: skip


@pytest.fixture
def world(memorised, threads) -> SimpleNamespace:
    """A copy of ``memorised`` to change, with ``encoded(records)``; one thread."""
    threads(1)

    def encoded(records):
        return encode(records, memorised.tokenizer, max_length=CONTEXT)

    return SimpleNamespace(**{**vars(memorised), "model": copy.deepcopy(memorised.model)}, encoded=encoded)


@pytest.fixture
def accuracy():
    """``accuracy(model, encoded)``: the share of target tokens that the model puts first."""
    from fastunlearn.audit.scores import token_scores

    return lambda model, samples: token_scores(model, samples, pad_token_id=0).accuracy
