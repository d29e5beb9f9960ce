"""The pilot: the whole procedure on a sample and a small model, with retrained references, ending in go or no-go.

One model learns the whole sample, others only what is to be kept, from the same beginning with orders of their own. The
first is made to forget with the configured method. Go: it is as near to the references as the thresholds ask.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from fastunlearn.audit.document import build_document, entry, result_entry
from fastunlearn.audit.html import write_report
from fastunlearn.audit.measure import measure
from fastunlearn.data.encode import Encoded, encode
from fastunlearn.errors import InvalidInputError
from fastunlearn.production.config import check_method, method_settings
from fastunlearn.production.job import read_set
from fastunlearn.production.schema import Config
from fastunlearn.progress import NO_PROGRESS, Progress
from fastunlearn.storage import load_model, load_tokenizer, refuse_existing, write_json
from fastunlearn.training import build_model, train
from fastunlearn.unlearn import get_method, keep_fisher, unlearn
from fastunlearn.unlearn.request import pad_token

__all__ = ["Check", "Verdict", "decide", "run_pilot"]

REPORT = "pilot.json"
LEARNT = 0.1  # by how much the trained model's forget accuracy must stand above the references' for a pilot to tell


@dataclass(frozen=True)
class Check:
    """One threshold: what was measured, the most that is allowed, and whether it holds (None: not measured)."""

    name: str
    value: float | None
    limit: float
    holds: bool | None


@dataclass(frozen=True)
class Verdict:
    """``go``, and a sentence for each reason."""

    go: bool
    reasons: list[str]
    checks: list[Check]


def decide(original: dict, after: dict, references: list[dict], config: Config, hours: float | None) -> Verdict:
    """Go where every threshold that was measured holds, and the pilot could tell; metrics are those of ``measure``."""
    limits = config.pilot

    def accuracy(metrics: dict, name: str) -> float:
        return metrics[name]["accuracy"]

    known = max(accuracy(one, "forget") for one in references)
    kept = min(accuracy(one, "retain") for one in references)
    values = [
        ("forget accuracy above the references'", accuracy(after, "forget") - known, limits.max_forget_excess),
        ("retained accuracy below the references'", kept - accuracy(after, "retain"), limits.max_retain_loss),
        ("KL to the reference on retained records", after["kl_retain"], limits.max_kl_retain),
        ("membership AUC away from the references'", _membership_gap(after, references), limits.max_membership_gap),
    ]
    if limits.max_hours:
        values.append(("hours of the production run", hours, limits.max_hours))
    checks = [Check(name, value, limit, None if value is None else value <= limit) for name, value, limit in values]
    learnt = accuracy(original, "forget") - known
    reasons = [_sentence(check) for check in checks]
    if learnt < LEARNT:
        reasons.append(
            f"The pilot's model knew the records to forget hardly better than the references ({learnt:.3f} more), so "
            "nothing is shown: raise pilot.steps, pilot.learning_rate or pilot.width"
        )
    return Verdict(learnt >= LEARNT and not any(check.holds is False for check in checks), reasons, checks)


def _membership_gap(after: dict, references: list[dict]) -> float | None:
    if after["membership"] is None:
        return None
    mean = sum(one["membership"]["auc"] for one in references) / len(references)
    return abs(after["membership"]["auc"] - mean)


def _sentence(check: Check) -> str:
    if check.value is None:
        return f"Not measured: {check.name}"
    return f"{'Holds' if check.holds else 'FAILS'}: {check.name}: {check.value:.4g}, at most {check.limit:.4g} allowed"


def _sample(records: list, most: int, seed: int) -> list:
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed))[:most]
    return [records[i] for i in sorted(order.tolist())]


class _Pilot:
    """The sample as tokens, and how its models are made."""

    def __init__(self, config: Config, progress: Progress):
        self.config, self.progress = config, progress
        pilot, seed = config.pilot, config.method.seed
        found = {name: read_set(config, name) for name in ("forget", "retain", "held_out")}
        for name in ("forget", "retain"):
            if not found[name]:
                raise InvalidInputError(f"{config.path.name}: a pilot needs data.{name}")
        gone = set(found["forget"])
        for name in ("retain", "held_out"):  # as a run of requests leaves them out
            if found[name] and gone.issuperset(found[name]):
                raise InvalidInputError(
                    f"{config.path.name}: data.{name} has only records that data.forget has too: give others"
                )
            found[name] = [record for record in found[name] if record not in gone]
        source, trust = config.place(pilot.base or config.model.folder), config.model.trust_remote_code
        if not source.is_dir():
            key = "pilot.base" if pilot.base else "model.folder"
            raise InvalidInputError(f"{config.path.name}: {key}: there is no folder {source}; name that of a model")
        self._base = load_model(source, device=config.model.device, trust_remote_code=trust)[0] if pilot.base else None
        self.tokenizer = load_tokenizer(source, trust_remote_code=trust)
        chosen = {name: _sample(records, getattr(pilot, name), seed) for name, records in found.items() if records}
        length = {"max_length": config.data.max_length or 1 << 20, "truncate": config.data.truncate}
        self.sets: dict[str, list[Encoded]] = {
            name: encode(records, self.tokenizer, name=f"data.{name}", **length) for name, records in chosen.items()
        }
        self._context = max(len(one.input_ids) for samples in self.sets.values() for one in samples)

    def _new(self):
        if self._base is not None:
            return copy.deepcopy(self._base)
        pilot = self.config.pilot
        heads = max(h for h in (1, 2, 4) if pilot.width % (2 * h) == 0)
        model = build_model(
            self.tokenizer, hidden_size=pilot.width, layers=pilot.layers, heads=heads, context=max(2, self._context),
            seed=self.config.method.seed,
        )  # fmt: skip
        return model.to(self.config.model.device)

    def trained(self, names: tuple[str, ...], seed: int):
        """A model that has learnt the sets of these names, in an order of its own."""
        model, pilot = self._new(), self.config.pilot
        train(
            model, [sample for name in names for sample in self.sets[name]], steps=pilot.steps, seed=seed,
            batch_size=pilot.batch_size, learning_rate=pilot.learning_rate, progress=self.progress,
            pad_token_id=pad_token(model, self.tokenizer),
        )  # fmt: skip
        return model.eval()

    def forget(self, model):
        """Runs the configured method on the model; the result. A kept Fisher is made of the sample first."""
        method, kept = self.config.method, None
        if get_method(method.name).uses_kept:
            kept = keep_fisher(model, self.tokenizer, self.sets["forget"] + self.sets["retain"], memory=method.memory)
        return unlearn(
            model, self.tokenizer, forget=self.sets["forget"], retain=self.sets["retain"],
            held_out=self.sets.get("held_out"), method=method.name, parameters=list(method.parameters) or None,
            kept_fisher=kept, seed=method.seed, batch_size=method.batch_size, memory=method.memory,
            progress=self.progress, **method_settings(self.config),
        )  # fmt: skip

    def measured(self, model, reference) -> dict:
        return measure(
            model, **self.sets, reference=reference, tokenizer=self.tokenizer, seed=self.config.method.seed,
            pad_token_id=pad_token(model, self.tokenizer),
        )  # fmt: skip


def run_pilot(
    config: Config, *, hours: Callable[[], float] | None = None, progress: Progress | None = None
) -> tuple[Verdict, Path]:
    """Runs the pilot and writes pilot.json, report.json and report.html into pilot.folder. Returns the verdict, and
    that folder. ``hours``: asked for the plan's time where the configuration limits it. Raises InvalidInputError."""
    check_method(config)
    folder = config.place(config.pilot.folder)
    for name in (REPORT, "report.json", "report.html"):  # can they be written at all? Those of before are replaced
        refuse_existing(folder / name, overwrite=True)
    progress = progress or NO_PROGRESS
    pilot, seed = _Pilot(config, progress), config.method.seed
    count = config.pilot.references
    with progress.group("Pilot", total=count + 3, unit="part") as task:
        original = pilot.trained(("forget", "retain"), seed)
        task.advance()
        references = []
        for number in range(count):
            references.append(pilot.trained(("retain",), seed + 1 + number))
            task.advance()
        before = pilot.measured(original, references[0])
        result = pilot.forget(original)
        task.advance()
        after = pilot.measured(original, references[0])
        others = [pilot.measured(one, references[0]) for one in references]
        task.advance()
    limit = hours() if hours is not None and config.pilot.max_hours else None
    verdict = decide(before, after, others, config, limit)
    _write(config, verdict, (before, after, others, result), pilot, folder)
    return verdict, folder


def _write(config: Config, verdict: Verdict, measured: tuple, pilot: _Pilot, folder: Path) -> None:
    before, after, others, result = measured
    name = config.method.name
    sizes = {f"{key} records": len(samples) for key, samples in pilot.sets.items()}
    document = build_document(
        title="Pilot: " + ("go" if verdict.go else "no go"), seed=config.method.seed,
        original=entry("original", before), reference=entry("retrained", others[0], uses_retain=True),
        methods={name: result_entry(get_method(name).label, after, result)}, data=sizes,
        model={"type": "the pilot's", "parameters": result.model.num_parameters()},
        settings={"target_tolerance": config.pilot.max_forget_excess}, notes=[*verdict.reasons, *result.notes],
    )  # fmt: skip
    write_report(document, folder, lang=config.evidence.lang)
    more = [{"forget_accuracy": one["forget"]["accuracy"], "retain_accuracy": one["retain"]["accuracy"],
             "kl_retain": one["kl_retain"], "membership": one["membership"]} for one in others]  # fmt: skip
    write_json(folder / REPORT, {**asdict(verdict), "references": more, "configuration": config.to_dict()})
