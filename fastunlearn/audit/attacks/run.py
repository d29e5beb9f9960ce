"""``run_attacks``: a model under attacks out of the table, beside the retrained model under the same ones."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from fastunlearn.audit._forward import check_samples
from fastunlearn.audit.attacks.outcome import Outcome, compare
from fastunlearn.audit.attacks.registry import ATTACKS
from fastunlearn.audit.attacks.settings import make_settings
from fastunlearn.audit.attacks.target import Target
from fastunlearn.audit.metrics.measured import padding_token
from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.samples import sample_digest
from fastunlearn.progress import NO_PROGRESS, Progress

if TYPE_CHECKING:
    from fastunlearn.data.encode import Encoded
    from fastunlearn.data.variants import Variants

__all__ = ["AttackedReference", "run_attacks"]


class AttackedReference:
    """The retrained model with what its attacks brought back, kept so that each runs once for many comparisons (as
    ``reference=`` of :func:`run_attacks`, with the same sets, settings and seed: another use is an error)."""

    def __init__(self, model: torch.nn.Module):
        self.model = model
        self._kept: dict[str, tuple[object, Outcome]] = {}

    def outcome(self, name: str, target: Target, settings: object) -> Outcome:
        """What the attack ``name`` brings back, run at the first call."""
        key = (settings, target.seed, _fingerprint(target))
        if name not in self._kept:
            self._kept[name] = (key, ATTACKS[name].run(target, settings))
        kept, outcome = self._kept[name]
        if kept != key:
            raise InvalidInputError(
                f"reference: {name} was run on it with other records, settings or seed; make it anew"
            )
        return outcome


def _fingerprint(target: Target) -> str:
    """Of all sets and variants: two targets with one fingerprint are attacked alike."""
    digest = hashlib.sha256(repr(sorted(target.variants.items())).encode())
    for name in sorted(target.sets):
        digest.update(name.encode())
        for sample in target.sets[name]:
            digest.update(sample_digest(sample).encode())
    return digest.hexdigest()


def _chosen(names: Sequence[str] | None, target: Target) -> list[str]:
    if names is None:
        return [name for name, attack in ATTACKS.items() if attack.missing(target) is None]
    names = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    for name in names:
        if name not in ATTACKS:
            raise InvalidInputError(f"names: {name!r} is no attack; the attacks are {', '.join(ATTACKS)}")
        missing = ATTACKS[name].missing(target)
        if missing is not None:
            raise InvalidInputError(f"names: {name} needs {missing}")
    return names


def run_attacks(
    model: torch.nn.Module,
    tokenizer,
    sets: Mapping[str, Sequence[Encoded]],
    names: Sequence[str] | None = None,
    *,
    reference: torch.nn.Module | AttackedReference | None = None,
    variants: Mapping[str, Sequence[Variants]] | None = None,
    settings: Mapping[str, Mapping[str, object]] | None = None,
    pad_token_id: int | None = None,
    batch_size: int = 64,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, dict]:
    """The attacks ``names`` of ATTACKS (default: all whose needs are met) on ``model``, and on ``reference``, the model
    retrained without the forget set, where there is one. Neither is changed.

    By attack: ``measures``: see :func:`fastunlearn.audit.attacks.outcome.compare`; ``records``: how many forgotten
    records were measured; ``settings``; ``facts`` and ``reference_facts``: such as the learning rate or layer that
    brought back most. Ready for JSON. ``sets``: encoded records: "forget", and for some attacks "retain", "held_out".
    ``variants``: by set, of all its records in order (:mod:`fastunlearn.data.variants`). ``settings``: by attack.
    ``level``, ``resamples``: of the bootstrap intervals over records; ``seed``: of them, and of what attacks draw.

    Raises InvalidInputError for an unknown attack or setting, one whose needs are not met, and models or sets that
    cannot be measured.
    """
    sets = {name: check_samples(samples, name) for name, samples in sets.items()}
    if "forget" not in sets:
        raise InvalidInputError("sets: needs the encoded records to forget, under the name forget")
    pad = padding_token(tokenizer, pad_token_id)
    target = Target(model, tokenizer, sets, dict(variants or {}), pad, batch_size, seed)
    chosen = _chosen(names, target)
    unknown = [name for name in settings or {} if name not in ATTACKS]
    if unknown:
        raise InvalidInputError(f"settings: {unknown[0]!r} is no attack; the attacks are {', '.join(ATTACKS)}")
    ready = {name: make_settings(name, (settings or {}).get(name, {})) for name in chosen}
    if reference is not None and not isinstance(reference, AttackedReference):
        reference = AttackedReference(reference)
    result = {}
    with (progress or NO_PROGRESS).task("Attacks", total=len(chosen), unit="attack") as task:
        for name in chosen:
            task.note(name)
            own = ATTACKS[name].run(target, ready[name])
            other = None
            if reference is not None:
                other = reference.outcome(name, dataclasses.replace(target, model=reference.model), ready[name])
            result[name] = {
                "measures": compare(own, other, level=level, resamples=resamples, seed=seed),
                "records": own.records,
                "settings": {
                    key: list(value) if isinstance(value, tuple) else value
                    for key, value in dataclasses.asdict(ready[name]).items()
                },
                "facts": own.facts,
                "reference_facts": None if other is None else other.facts,
            }
            task.advance()
    return result
