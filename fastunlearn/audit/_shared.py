"""Log-probabilities of many completions, where those that differ in their last token alone share a forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastunlearn.audit._forward import check_samples, evaluating, length_batches, vocabulary_size
from fastunlearn.data.encode import Encoded, collate
from fastunlearn.errors import InvalidInputError

__all__ = ["shared_log_probs"]


def shared_log_probs(
    model: torch.nn.Module, samples: Sequence[Encoded], *, pad_token_id: int, batch_size: int = 64
) -> Tensor:
    """(m,) float64 on the CPU, in nats: the log-probability of each sample's targets together.

    Samples with the same tokens and targets but for the last token are scored from one pass: 1000 numbers of three
    digits after one prompt cost 100 sequences. Raises InvalidInputError as
    :func:`~fastunlearn.audit.scores.token_scores`, and for a sample whose last token is no target.
    """
    samples = check_samples(samples)
    groups: dict[tuple, list[int]] = {}
    for index, (ids, labels) in enumerate(samples):
        if int(labels[-1]) == -100:
            raise InvalidInputError(f"samples[{index}]: its last token is not a target; check its encoding")
        groups.setdefault((tuple(ids[:-1].tolist()), tuple((labels != -100).tolist())), []).append(index)
    members = list(groups.values())
    contexts = [samples[group[0]].input_ids[:-1] for group in members]
    device = next(model.parameters()).device
    scores = torch.empty(len(samples), dtype=torch.float64)
    with evaluating(model):
        lengths = [len(context) for context in contexts]
        for chosen in length_batches(lengths, vocabulary_size(model), batch_size=batch_size):
            batch = collate([Encoded(contexts[row], contexts[row]) for row in chosen], pad_token_id=pad_token_id)
            logits = model(
                input_ids=batch["input_ids"].to(device),
                attention_mask=batch["attention_mask"].to(device),
                use_cache=False,
            ).logits
            for row, choice in enumerate(chosen):
                _score_group(logits[row], samples, members[choice], scores)
    if not bool(torch.isfinite(scores).all()):
        raise InvalidInputError("model: its logits hold NaN or infinity; it cannot be measured")
    return scores


def _score_group(logits: Tensor, samples: list[Encoded], group: list[int], scores: Tensor) -> None:
    """Write the scores of the samples of ``group``, whose shared context gave ``logits``."""
    ids, labels = samples[group[0]]
    targets = [position for position in range(1, len(ids)) if labels[position] != -100]
    rows = logits[[position - 1 for position in targets]].double().log_softmax(1).cpu()
    shared = sum(float(rows[row, ids[position]]) for row, position in enumerate(targets[:-1]))
    last = torch.stack([samples[index].input_ids[-1] for index in group])
    scores[torch.tensor(group)] = shared + rows[-1, last]
