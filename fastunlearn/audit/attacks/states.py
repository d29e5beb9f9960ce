"""Hidden states and folds for the probes, and their settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastunlearn.audit._forward import evaluating
from fastunlearn.audit.attacks.target import Target
from fastunlearn.data.encode import Encoded, collate
from fastunlearn.errors import InvalidInputError

__all__ = ["ProbeSettings", "folds_of", "hidden_states"]


@dataclass(frozen=True)
class ProbeSettings:
    """``folds`` of the cross-validation; ``layers``: of which hidden states (0: the embedding; None: the middle one
    and the last), the attacker keeps the best one; ``penalty`` of the squared weights; ``records``: at most so many
    kept records to fit on."""

    folds: int = 5
    layers: tuple[int, ...] | None = None
    penalty: float = 1e-2
    records: int = 400

    def __post_init__(self) -> None:
        if self.folds < 2 or self.records < 1 or self.penalty <= 0:
            raise InvalidInputError("folds must be at least 2, records at least 1 and penalty above 0")
        if self.layers is not None and not self.layers:
            raise InvalidInputError("layers: give at least one, or null for the middle one and the last")


def hidden_states(target: Target, samples: Sequence[Encoded], places: Sequence[int], layers) -> dict[int, Tensor]:
    """By layer: (n, width) float64 on the CPU, the state of each sample at its place."""
    device = next(target.model.parameters()).device
    rows: dict[int, list[Tensor]] = {}
    with evaluating(target.model):
        for start in range(0, len(samples), target.batch_size):
            some = slice(start, start + target.batch_size)
            batch = collate(samples[some], pad_token_id=target.pad_token_id)
            output = target.model(
                input_ids=batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device),
                use_cache=False, output_hidden_states=True,
            )  # fmt: skip
            states = output.hidden_states
            wanted = (len(states) // 2, len(states) - 1) if layers is None else layers
            if not all(0 <= layer < len(states) for layer in wanted):
                raise InvalidInputError(f"layers must lie between 0 and {len(states) - 1} for this model")
            at = torch.tensor(places[some], device=device)
            for layer in dict.fromkeys(wanted):
                found = states[layer][torch.arange(len(at), device=device), at]
                rows.setdefault(layer, []).append(found.double().cpu())
    return {layer: torch.cat(parts) for layer, parts in rows.items()}


def folds_of(count: int, folds: int, seed: int) -> Tensor:
    """(count,): the fold of each record, drawn by ``seed``, of sizes that differ by one at most."""
    return torch.arange(count)[torch.randperm(count, generator=torch.Generator().manual_seed(seed))] % folds
