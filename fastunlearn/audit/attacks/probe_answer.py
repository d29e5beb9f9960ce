"""Probing for answers: a logistic regression reads off a hidden state what the output layer no longer says.

It is fitted on kept records and on the forgotten ones of the other folds, and scored on records that it was not fitted
on. Source: Patil et al. 2024 (arXiv 2309.17410) read answers off hidden states; Alain & Bengio 2017 (arXiv 1610.01644)
for probes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastunlearn.audit.attacks.logistic import fit_logistic
from fastunlearn.audit.attacks.outcome import Outcome
from fastunlearn.audit.attacks.states import ProbeSettings, folds_of, hidden_states
from fastunlearn.audit.attacks.target import Target
from fastunlearn.audit.generation import prompt_and_answer
from fastunlearn.data.encode import IGNORE, Encoded
from fastunlearn.errors import InvalidInputError

__all__ = ["missing", "probe_answer"]


def _answers(samples: Sequence[Encoded]) -> tuple[list[Encoded], Tensor, list[int]]:
    """Each sample, the first token of its answer, and the place of the token before."""
    parts = [prompt_and_answer(sample) for sample in samples]
    first = torch.tensor([int(answer[0]) for _, answer in parts])
    return list(samples), first, [len(prompt) - 1 for prompt, _ in parts]


def missing(target: Target) -> str | None:
    """Why the probe of answers cannot be run."""
    if "retain" not in target.sets:
        return "kept records (sets['retain'])"
    kept = set(_answers(target.sets["retain"])[1].tolist())
    known = sum(token in kept for token in _answers(target.sets["forget"])[1].tolist())
    return None if known >= 2 and len(kept) > 1 else "forgotten answers that begin as kept ones do, two at least"


def probe_answer(target: Target, settings: ProbeSettings) -> Outcome:
    """``accuracy``: before, whether the model puts the first token of the answer first; after, whether the probe does.
    Only forgotten records whose answer begins as that of a kept record does: the probe knows no other answers."""
    retain, kept, kept_places = _answers(target.sets["retain"])
    order = torch.randperm(len(retain), generator=torch.Generator().manual_seed(target.seed))
    pick = order[: settings.records].tolist()
    retain, kept, kept_places = [retain[i] for i in pick], kept[pick], [kept_places[i] for i in pick]
    forget, first, places = _answers(target.sets["forget"])
    chosen = torch.nonzero(torch.isin(first, kept)).flatten().tolist()
    if len(chosen) < 2:
        raise InvalidInputError(
            f"records={settings.records}: too few kept records have answers of forgotten ones; raise it"
        )
    forget, first, places = [forget[i] for i in chosen], first[chosen], [places[i] for i in chosen]
    tokens, labels = torch.unique(torch.cat([first, kept]), return_inverse=True)
    states = hidden_states(target, forget + retain, places + kept_places, settings.layers)
    fold = torch.cat([folds_of(len(forget), settings.folds, target.seed), torch.full((len(retain),), -1)])
    best, at = None, None
    for layer, rows in states.items():
        right = torch.zeros(len(forget), dtype=torch.float64)
        for left_out in fold[: len(forget)].unique().tolist():
            out = fold == left_out
            scores = fit_logistic(rows[~out], labels[~out], len(tokens), penalty=settings.penalty)(rows[out])
            right[out[: len(forget)]] = (scores.argmax(1) == labels[out]).double()
        if best is None or right.mean() > best.mean():
            best, at = right, layer
    first_only = []
    for one, place in zip(forget, places, strict=True):
        ids, labels = one.input_ids[: place + 2], torch.full((place + 2,), IGNORE)
        labels[-1] = ids[-1]
        first_only.append(Encoded(ids, labels))
    before = target.recall(target.model, first_only)["accuracy"]
    return Outcome({"accuracy": (before, best.numpy())}, {"layer": at, "answers": len(tokens)})
