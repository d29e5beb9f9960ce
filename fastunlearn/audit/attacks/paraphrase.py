"""Paraphrased prompts: does the model answer where the question is put in other words?

Unlearning acts on the records as they were given; Patil et al. 2024 (arXiv 2309.17410) and Lynch et al. 2024 (arXiv
2402.16835) ask in other words what was to be forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fastunlearn.audit.attacks.outcome import Outcome
from fastunlearn.audit.attacks.target import Target
from fastunlearn.audit.exposure import context_length
from fastunlearn.data.encode import encode_like
from fastunlearn.errors import InvalidInputError

__all__ = ["ParaphraseSettings", "missing", "paraphrase"]


@dataclass(frozen=True)
class ParaphraseSettings:
    """There is nothing to set: all wordings that were given are tried."""


def missing(target: Target) -> str | None:
    """Why the attack cannot be run."""
    given = any(one.prompts for one in target.variants.get("forget", ()))
    return None if given else "other wordings of forgotten records (variants= with prompts)"


def paraphrase(target: Target, settings: ParaphraseSettings) -> Outcome:
    """Records that have other wordings: both measures with the prompt as it was, and their mean over the wordings;
    ``best_accuracy``: with the wording that works best for each record."""
    forget, variants = target.sets["forget"], target.variants["forget"]
    length = context_length(target.model)

    def encoded(records):
        return encode_like(
            forget[0], records, target.tokenizer, max_length=length, name="variants of forget"
        )

    same = len(variants) == len(forget) and all(
        torch.equal(one.input_ids, sample.input_ids)
        for one, sample in zip(encoded([one.record for one in variants]), forget, strict=True)
    )
    if not same:
        raise InvalidInputError("variants: those of forget must be of its records, one for each, in the same order")
    chosen = [index for index, one in enumerate(variants) if one.prompts]
    records = [record for index in chosen for record in variants[index].reworded]
    owner = np.repeat(np.arange(len(chosen)), [len(variants[index].prompts) for index in chosen])
    before = target.recall(target.model, [forget[index] for index in chosen])
    found = target.recall(target.model, encoded(records))
    measures = {name: (before[name], np.bincount(owner, found[name]) / np.bincount(owner)) for name in found}
    best = np.zeros(len(chosen))
    np.maximum.at(best, owner, found["accuracy"])
    measures["best_accuracy"] = (before["accuracy"], best)
    return Outcome(measures, {"wordings": len(records)})
