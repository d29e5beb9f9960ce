"""The sample document as a fixture (the file beside this one is also a script)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def sample() -> ModuleType:
    """The module tests/audit/sample_document.py."""
    path = Path(__file__).with_name("sample_document.py")
    specification = importlib.util.spec_from_file_location("sample_document", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def document(sample) -> dict:
    """A fresh sample document."""
    return sample.sample_document()


PEOPLE = {"forget_people": 4, "held_out_people": 6, "canaries": 2, "canary_digits": 2, "seed": 0}


@pytest.fixture(scope="session")
def trained():
    """Two tiny models of invented people: ``original``, and ``retrained`` without those to forget; ``tokenizer``,
    ``people``, ``sets`` (encoded, by name) and ``variants``. Do not change the models."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from fastunlearn.data import encode, generate_people, train_tokenizer
    from fastunlearn.data.variants import people_variants
    from fastunlearn.training import train

    people = generate_people(14, 3, **PEOPLE)
    tokenizer = train_tokenizer(people.texts())
    sets = {name: encode(getattr(people, name), tokenizer, max_length=32) for name in ("forget", "retain", "held_out")}

    def make(samples, seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = LlamaConfig(
                vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                num_attention_heads=2, max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                tie_word_embeddings=True,
            )  # fmt: skip
            model = LlamaForCausalLM(config)
        train(model, samples, steps=160, batch_size=24, learning_rate=6e-3, seed=seed, pad_token_id=0)
        return model

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        original, retrained = make(sets["forget"] + sets["retain"], 0), make(sets["retain"], 1)
    finally:
        torch.set_num_threads(threads)
    variants = {name: people_variants(getattr(people, name)) for name in ("forget", "retain")}
    return SimpleNamespace(
        original=original, retrained=retrained, tokenizer=tokenizer, people=people, sets=sets, variants=variants
    )
