"""Probing for membership: does a hidden state tell forgotten records from ones that no model has seen?

A logistic regression on the state at a record's last token, scored on records that it was not fitted on. Source: Alain
& Bengio 2017 (arXiv 1610.01644) for probes.
"""

from __future__ import annotations

import torch

from fastunlearn.audit.attacks.logistic import fit_logistic
from fastunlearn.audit.attacks.outcome import Outcome, Scores
from fastunlearn.audit.attacks.states import ProbeSettings, folds_of, hidden_states
from fastunlearn.audit.attacks.target import Target
from fastunlearn.audit.membership import auc
from fastunlearn.audit.scores import token_scores

__all__ = ["missing", "probe_membership"]


def missing(target: Target) -> str | None:
    """Why the probe of membership cannot be run."""
    if "held_out" not in target.sets:
        return "held-out records (sets['held_out'])"
    return None if min(len(target.sets[name]) for name in ("forget", "held_out")) > 1 else "two records in each set"


def probe_membership(target: Target, settings: ProbeSettings) -> Outcome:
    """``auc`` of telling forgotten records from held-out ones: before, by a low loss; after, by the probe."""
    sets = [list(target.sets[name]) for name in ("forget", "held_out")]
    everything = sets[0] + sets[1]
    labels = torch.tensor([1] * len(sets[0]) + [0] * len(sets[1]))
    states = hidden_states(target, everything, [len(one.input_ids) - 1 for one in everything], settings.layers)
    fold = torch.cat([folds_of(len(part), settings.folds, target.seed) for part in sets])
    best, most, at = None, 0.0, None
    for layer, rows in states.items():
        score = torch.zeros(len(everything), dtype=torch.float64)
        for left_out in fold.unique().tolist():
            out = fold == left_out
            found = fit_logistic(rows[~out], labels[~out], 2, penalty=settings.penalty)(rows[out])
            score[out] = found[:, 0] - found[:, 1]  # as a loss: low for members
        reached = auc(score[labels == 1].numpy(), score[labels == 0].numpy())
        if best is None or reached > most:
            best, most, at = score.numpy(), reached, layer
    losses = token_scores(
        target.model, everything, pad_token_id=target.pad_token_id, batch_size=target.batch_size
    ).sample_losses.numpy()
    count = len(sets[0])
    own, others = ((losses[part], best[part]) for part in (slice(count), slice(count, None)))
    return Outcome({"auc": Scores(own, others)}, {"layer": at})
