"""What the demonstration works on: invented people, a small model that has learnt them, and one that never met
those to be forgotten."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fastunlearn.data import PeopleData, encode, generate_people, train_tokenizer
from fastunlearn.data.encode import Encoded
from fastunlearn.progress import NO_PROGRESS, Progress
from fastunlearn.resources import Usage, measured
from fastunlearn.training import TrainingLog, train

__all__ = ["Subject", "Trained", "make_model", "make_subject"]

CONTEXT = 32
STEPS = 1000


@dataclass
class Trained:
    """A model with what its training cost."""

    model: LlamaForCausalLM
    log: TrainingLog
    usage: Usage


@dataclass
class Subject:
    """Data, tokenizer, encoded sets, the original model and the one retrained without the forget records (same
    initial weights, same number of steps)."""

    people: PeopleData
    tokenizer: object
    forget: list[Encoded]
    retain: list[Encoded]
    held_out: list[Encoded]
    original: Trained
    reference: Trained

    @property
    def pad_token_id(self) -> int:
        return self.tokenizer.pad_token_id


def make_model(tokenizer, seed: int, *, layers: int = 4, width: int = 128) -> LlamaForCausalLM:
    """A Llama-shaped model with tied embeddings; its weights depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=8 * round(width / 3),
            num_attention_heads=4, num_key_value_heads=4, num_hidden_layers=layers,
            max_position_embeddings=CONTEXT, tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        return LlamaForCausalLM(config).eval()


def _trained(what: str, tokenizer, samples: list[Encoded], seed: int, steps: int, progress: Progress) -> Trained:
    model = make_model(tokenizer, seed)
    with progress.task(f"{what} model", total=1, unit="model") as task, measured() as usage:
        log = train(model, samples, steps=steps, seed=seed, pad_token_id=tokenizer.pad_token_id, progress=progress)
        task.advance()
        task.note(f"{steps} steps, loss {log.losses[-1]:.3f}")
    return Trained(model, log, usage)


def make_subject(seed: int = 0, *, steps: int = STEPS, progress: Progress | None = None, **people) -> Subject:
    """Generates the data (``people``: arguments of generate_people) and trains both models."""
    progress = progress or NO_PROGRESS
    found = generate_people(seed=seed, **people)
    tokenizer = train_tokenizer(found.texts(), kind="words")
    forget, retain, held_out = (
        encode(records, tokenizer, max_length=CONTEXT, name=name)
        for name, records in (("forget", found.forget), ("retain", found.retain), ("held_out", found.held_out))
    )
    original = _trained("Original", tokenizer, forget + retain, seed, steps, progress)
    reference = _trained("Retrained", tokenizer, retain, seed, steps, progress)
    return Subject(found, tokenizer, forget, retain, held_out, original, reference)
