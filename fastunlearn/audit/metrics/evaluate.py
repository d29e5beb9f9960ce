"""``evaluate_metrics``: one model measured by names out of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from fastunlearn.audit.metrics.measured import MeasuredModel, Measurement
from fastunlearn.audit.metrics.registry import METRICS, NEEDS
from fastunlearn.errors import InvalidInputError
from fastunlearn.progress import NO_PROGRESS, Progress

if TYPE_CHECKING:
    from fastunlearn.data.encode import Encoded
    from fastunlearn.data.people import Canary
    from fastunlearn.data.variants import Variants

__all__ = ["evaluate_metrics", "missing_needs"]

Model = torch.nn.Module | MeasuredModel


def missing_needs(name: str, measurement: Measurement) -> list[str]:
    """What the metric ``name`` needs and ``measurement`` lacks, in words."""
    return [words for given, words in (NEEDS[need] for need in METRICS[name].needs) if not given(measurement)]


def _chosen(names: Sequence[str] | None, measurement: Measurement) -> list[str]:
    if names is None:
        return [name for name in METRICS if not missing_needs(name, measurement)]
    if isinstance(names, str):
        names = [names]
    for name in names:
        if name not in METRICS:
            raise InvalidInputError(f"names: {name!r} is no metric; the metrics are {', '.join(METRICS)}")
        missing = missing_needs(name, measurement)
        if missing:
            raise InvalidInputError(f"names: {name} needs {' and '.join(missing)}")
    return list(dict.fromkeys(names))


def evaluate_metrics(
    model: Model,
    tokenizer,
    sets: Mapping[str, Sequence[Encoded]],
    names: Sequence[str] | None = None,
    *,
    reference: Model | None = None,
    references: Sequence[Model] = (),
    siblings: Sequence[Model] = (),
    calibration: Model | None = None,
    variants: Mapping[str, Sequence[Variants]] | None = None,
    canaries: Sequence[Canary] = (),
    pad_token_id: int | None = None,
    batch_size: int = 64,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, dict[str, dict]]:
    """The metrics ``names`` of METRICS (default: all whose needs are met) of ``model``: by metric and place (a set's
    name, "forget|held_out", "all") ``value``, ``low`` and ``high``, ready for JSON; None where not finite.

    ``sets``: encoded records: "forget", and where there are any "retain", "held_out" (like forget, never trained on),
    "fresh" or others. ``reference``: the model retrained without the forget set. ``references``, ``siblings``: further
    retrained models, and the same method's models of other seeds, for klom. ``calibration``: the model that never saw
    the records, for mia_reference (default: ``reference``). ``variants``: by set, wrong answers
    (:mod:`fastunlearn.data.variants`). Each model may be a :class:`MeasuredModel`, whose passes are then used again.
    ``level``, ``resamples``, ``seed``: of the bootstrap intervals, which speak of the chance of the records alone.

    Raises InvalidInputError for an unknown name, one whose needs are not met, and models or sets that cannot be
    measured.
    """
    common = {"variants": variants, "canaries": canaries, "pad_token_id": pad_token_id, "batch_size": batch_size}

    def measured(one: Model | None) -> MeasuredModel | None:
        return one if one is None or isinstance(one, MeasuredModel) else MeasuredModel(one, tokenizer, sets, **common)

    own, other = measured(model), measured(reference)
    measurement = Measurement(
        own, other, [one for one in (other, *map(measured, references)) if one is not None],
        [own, *map(measured, siblings)], measured(calibration) if calibration is not None else other,
        level=level, resamples=resamples, seed=seed,
    )  # fmt: skip
    _check_same_sets(measurement, sets, variants, canaries)
    chosen = _chosen(names, measurement)
    result = {}
    with (progress or NO_PROGRESS).task("Metrics", total=len(chosen), unit="metric") as task:
        for name in chosen:
            task.note(name)
            result[name] = METRICS[name].measure(measurement)
            task.advance()
    return result


def _check_same_sets(measurement: Measurement, sets, variants, canaries) -> None:
    """Models that were measured before must have been so on the same records."""
    own = measurement.model
    if own.sets.keys() != sets.keys() or not all(_same(own.sets[name], samples) for name, samples in sets.items()):
        raise InvalidInputError("model: was measured on other sets than these; make it anew for these")
    given = {name: [one for one in found if one.perturbed] for name, found in (variants or {}).items()}
    if (given and given != own.variants) or (canaries and list(canaries) != own.canaries):
        raise InvalidInputError("model: has other variants or canaries than these; give them to MeasuredModel")
    for other in [*measurement.references, *measurement.models, measurement.calibration]:
        if other is not None and not all(_same(other.sets.get(name), own.sets[name]) for name in own.sets):
            raise InvalidInputError("reference: was measured on other sets than these; make it anew for these")


def _same(some: Sequence[Encoded] | None, others: Sequence[Encoded]) -> bool:
    if some is others:
        return True
    return some is not None and len(some) == len(others) and all(
        torch.equal(a.input_ids, b.input_ids) and torch.equal(a.labels, b.labels)
        for a, b in zip(some, others, strict=True)
    )
