"""The last part of a run: measure the model before and after, draw the report, seal the evidence folder."""

from __future__ import annotations

from pathlib import Path

from fastunlearn.audit.attacks import ATTACKS, run_attacks
from fastunlearn.audit.document import build_document, entry
from fastunlearn.audit.exposure import context_length
from fastunlearn.audit.html import write_report
from fastunlearn.audit.measure import cache_reference, measure
from fastunlearn.data.encode import encode
from fastunlearn.evidence import EvidenceLog, Requested, RunRecord, generate_key, record_table, write_evidence
from fastunlearn.production.job import Job
from fastunlearn.progress import Progress
from fastunlearn.storage import load_model
from fastunlearn.unlearn import METHODS
from fastunlearn.unlearn.request import pad_token

__all__ = ["prove"]

MEASURED_WITH = {"batch_size": 64, "level": 0.95, "resamples": 1000}


class _Measurer:
    """Measures one model folder after the other on the job's records."""

    def __init__(self, job: Job):
        self._job, self._reference = job, None
        self.seed = job.config.method.seed
        self.limit, self.model = 0, {}

    def _load(self, folder: Path):
        section = self._job.config.model
        return load_model(folder, device=section.device, trust_remote_code=section.trust_remote_code)

    def __call__(self, folder: Path, *, reference: bool = False, last: bool = False):
        """The metrics of the model in ``folder``; of the ``last`` one also those of every record, and what attacks
        find. As ``reference`` it is the one that the others are compared with."""
        model, tokenizer = self._load(folder)
        data = self._job.config.data
        self.limit = data.max_length or context_length(model)
        self.model = {"type": type(model).__name__, "parameters": model.num_parameters(), "context": self.limit}
        lengths = {"max_length": self.limit, "truncate": data.truncate}
        given = {name: records for name, records in self._job.sets().items() if records is not None}
        sets = {name: encode(records, tokenizer, name=name, **lengths) for name, records in given.items()}
        pad, batch = pad_token(model, tokenizer), MEASURED_WITH["batch_size"]
        if reference:
            self._reference = cache_reference(model, **sets, pad_token_id=pad, batch_size=batch)
        metrics = measure(
            model, **sets, reference=self._reference, tokenizer=tokenizer, pad_token_id=pad, seed=self.seed,
            **MEASURED_WITH,
        )  # fmt: skip
        if not last:
            return metrics
        table = record_table(model, tokenizer, given, batch_size=batch, **lengths)
        return metrics, table, self._attacks(model, tokenizer, sets, pad)

    def _attacks(self, model, tokenizer, sets: dict, pad: int) -> dict:
        config = self._job.config
        if not config.evidence.attacks:
            return {}
        other = self._load(config.place(config.model.reference))[0] if config.model.reference else None
        return run_attacks(
            model, tokenizer, sets, config.evidence.attacks, reference=other, pad_token_id=pad, seed=self.seed,
            **MEASURED_WITH,
        )  # fmt: skip


def _signing_key(folder: Path) -> Path:
    key = folder / "private.pem"
    return key if key.exists() else generate_key(folder)


def _report(job: Job, account: dict, metrics: dict, model: dict, folder: Path) -> list[Path]:
    """report.json and report.html in ``folder``."""
    method = METHODS[account["method"]]
    cost = ("uses_retain", "gradients", "seconds", "peak_bytes", "settings", "stopped", "steps")
    found = entry(method.label, metrics["after"], **{name: account[name] for name in cost})
    found["first_order"] = method.first_order
    reference = None if metrics["reference"] is None else entry("retrained", metrics["reference"], uses_retain=True)
    document = build_document(
        title="Report of an unlearning run", original=entry("original", metrics["before"]), reference=reference,
        methods={account["method"]: found}, seed=account["seed"], model=model,
        data={**{f"{name} records": len(records or ()) for name, records in job.sets().items()},
              "requests": [one.id for one in job.requests], "run": account["run"]},
        notes=[*account["notes"], *job.notes],
    )  # fmt: skip
    return list(write_report(document, folder, lang=job.config.evidence.lang))


def _not_tried(attacks: dict) -> list[str]:
    left = [name for name in ATTACKS if name not in attacks]
    return [f"These attacks were not tried: {', '.join(left)}."] if left else []


def prove(job: Job, log: EvidenceLog, account: dict, *, threads: int, progress: Progress) -> Path:
    """Writes the evidence folder of a run whose model is in place. Returns the folder."""
    config, measurer = job.config, _Measurer(job)
    reference = config.place(config.model.reference) if config.model.reference else None
    with progress.task("Evidence", total=4, unit="part") as task:
        metrics = {"before": None, "after": None, "reference": None}
        if reference is not None:
            metrics["reference"] = measurer(reference, reference=True)
        metrics["before"] = measurer(job.before)
        task.advance(2)
        metrics["after"], table, attacks = measurer(job.out, last=True)
        task.advance()
        pages = _report(job, account, metrics, measurer.model, job.state)
        kind = "a model trained without the forget records" if reference else "none"
        record = RunRecord(
            log=log, before=job.before, after=job.out,
            requests=[Requested(id=one.id, records=list(one.records), received=one.received) for one in job.requests],
            retain=list(job.retain), held_out=list(job.held_out), arguments=job.arguments(),
            kept_fisher=job.kept_fisher(),
            result={name: value for name, value in account.items() if name != "run"}, metrics=metrics,
            measured_with={**MEASURED_WITH, "seed": measurer.seed, "max_length": measurer.limit,
                           "truncate": config.data.truncate},
            table=table, attacks=attacks, reference={"kind": kind, "folder": reference}, configuration=config.to_dict(),
            not_claimed=_not_tried(attacks), notes=list(job.notes), salts=job.salts,
            attachments={path.name: path for path in pages}, device=config.model.device, threads=threads,
            deterministic=True, trust_remote_code=config.model.trust_remote_code,
        )  # fmt: skip
        write_evidence(job.evidence, record, key=_signing_key(config.place(config.evidence.keys)))
        task.advance()
    return job.evidence
