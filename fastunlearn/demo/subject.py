"""What the demonstration works on: invented people, a small model that has learnt them, and one that never met
those to be forgotten."""

from __future__ import annotations

from dataclasses import dataclass

from fastunlearn.data import PeopleData, encode, generate_people, train_tokenizer
from fastunlearn.evaluation.small_model import make_model
from fastunlearn.evaluation.subject import Subject, train_one
from fastunlearn.progress import Progress

__all__ = ["PeopleSubject", "make_subject"]

CONTEXT = 32
STEPS = 1000


@dataclass(kw_only=True)
class PeopleSubject(Subject):
    """With the people that the records are about."""

    people: PeopleData


def make_subject(seed: int = 0, *, steps: int = STEPS, progress: Progress | None = None, **people) -> PeopleSubject:
    """Generates the data (``people``: arguments of generate_people) and trains both models."""
    found = generate_people(seed=seed, **people)
    tokenizer = train_tokenizer(found.texts(), kind="words")
    forget, retain, held_out = (
        encode(records, tokenizer, max_length=CONTEXT, name=name)
        for name, records in (("forget", found.forget), ("retain", found.retain), ("held_out", found.held_out))
    )
    models = [
        train_one(
            what, lambda: make_model(tokenizer, seed, context=CONTEXT), tokenizer, samples, seed=seed, steps=steps,
            progress=progress,
        )
        for what, samples in (("Original", forget + retain), ("Retrained", retain))
    ]  # fmt: skip
    return PeopleSubject(
        people=found, tokenizer=tokenizer, forget=forget, retain=retain, held_out=held_out, canaries=found.canaries,
        original=models[0], reference=models[1],
    )  # fmt: skip
