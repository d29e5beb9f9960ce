"""What a production run will take, before it runs: time, memory, disk and money.

The method's and the measurements' share comes from trial passes (trial.py), the rest from measured rates: how long the
model takes to load, tensors to be written and digests to be taken. Nothing of the model folder is changed, and nothing
is left on the disk.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch

from fastunlearn.audit.attacks import run_attacks
from fastunlearn.audit.measure import cache_reference, measure
from fastunlearn.data.encode import encode
from fastunlearn.errors import InvalidInputError, OutputError
from fastunlearn.evidence import deterministic, record_table
from fastunlearn.operators.model_state import select_parameters
from fastunlearn.production.config import check_method
from fastunlearn.production.job import Job
from fastunlearn.production.proof import MEASURED_WITH
from fastunlearn.production.trial import LOOKS, Trial, first_share, fit, growing, method_trials, sized
from fastunlearn.progress import NO_PROGRESS, Progress
from fastunlearn.resources import measured, resident_bytes
from fastunlearn.storage import load_model, load_tokenizer
from fastunlearn.storage.files import write_tensors
from fastunlearn.unlearn import get_method
from fastunlearn.unlearn.request import pad_token

__all__ = ["make_plan"]

_SHORT = 10.0  # seconds of loading up to which it is done twice
_SAMPLE = 32 << 20  # bytes written and digested to learn the rates
_EVIDENCE_SECONDS = 1.0  # small files, page, signature: see bench/plan.py
_EVIDENCE_BYTES, _RECORD_BYTES = 300_000, 250


def _load(job: Job):
    """Model and tokenizer, from the weights where they are there, else random ones of the same shapes."""
    section = job.config.model
    options = {"device": section.device, "trust_remote_code": section.trust_remote_code}
    if any(job.before.glob("*.safetensors")):
        return *load_model(job.before, **options), True
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        local = {"local_files_only": True, "trust_remote_code": section.trust_remote_code}
        shapes = AutoConfig.from_pretrained(str(job.before), **local)
        model = AutoModelForCausalLM.from_config(shapes).to(section.device).eval()
    except (OSError, ValueError) as error:
        file = job.config.path.name
        raise InvalidInputError(
            f"{file}: model.folder: {job.before} needs at least config.json and a tokenizer"
        ) from error
    return model, load_tokenizer(job.before, trust_remote_code=section.trust_remote_code), False


def _steps(job: Job, trials: list[Trial]) -> tuple[int, int]:
    """How many steps at most, and how many of them take a fresh Fisher."""
    settings = check_method(job.config)
    if hasattr(settings, "steps"):
        total = settings.steps
        refresh = getattr(settings, "refresh", 1)
        extra = 1 if getattr(settings, "noise", 0) else 0
        return total + extra, -(-total // refresh) + extra
    if hasattr(settings, "gradients"):
        return max(1, int(settings.gradients // max(1.0, trials[-1].gradients))), 0
    return 1, 1


def _method_seconds(trials: list[Trial], warming: float, steps: int, fresh: int) -> tuple[float, float]:
    """Seconds until the first step, what only the first pass of a process takes included, and of all steps."""
    s = [trial.share for trial in trials]
    setup, first = fit(s, [trial.setup for trial in trials]), fit(s, [trial.first for trial in trials])
    further = fit(s, [max(trial.further, 1e-9) for trial in trials])
    once = max(0.0, warming - setup.value(s[0] / 16) - first.value(s[0] / 16))
    return setup.value() + once, fresh * first.value() + (steps - fresh) * further.value()


def _rates(folder: Path) -> tuple[float, float]:
    """Bytes per second of writing tensors to the disk of ``folder`` and of SHA-256."""
    block = torch.zeros(_SAMPLE // 4)
    place = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    try:
        with tempfile.TemporaryDirectory(prefix=".plan.", dir=place) as here:
            began = time.perf_counter()
            write_tensors(Path(here) / "x.safetensors", {"x": block}, {})
            written = time.perf_counter()
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        why = error.strerror or str(error)
        raise OutputError(f"{folder} could not be made: nothing can be written in {place} ({why})") from error
    hashlib.sha256(block.numpy().tobytes()).digest()
    return _SAMPLE / (written - began), _SAMPLE / (time.perf_counter() - written)


def _measuring(model, tokenizer, job: Job, sets: dict, limit: int, seconds: float) -> tuple[list, list, list, list]:
    """Shares; at each, seconds of measuring one model, seconds of its table of records and attacks, peak bytes."""
    shares, times, tables, peaks = [], [], [], []
    pad, data, attacks = pad_token(model, tokenizer), job.config.data, job.config.evidence.attacks
    records = {name: found for name, found in job.sets().items() if found is not None}

    def one(share: float) -> None:
        part = {name: found for name, found in sized(sets, share).items() if found is not None}
        began = time.perf_counter()
        with measured(next(model.parameters()).device) as usage:
            reference = None
            if job.config.model.reference:
                reference = cache_reference(model, **part, pad_token_id=pad, batch_size=MEASURED_WITH["batch_size"])
            measure(model, **part, reference=reference, tokenizer=tokenizer, pad_token_id=pad, **MEASURED_WITH)
        done = time.perf_counter()
        some = {name: found for name, found in sized(records, share).items() if found is not None}
        record_table(model, tokenizer, some, max_length=limit, truncate=data.truncate, batch_size=64)
        if attacks:
            other = model if job.config.model.reference else None
            run_attacks(model, tokenizer, part, attacks, reference=other, pad_token_id=pad, **MEASURED_WITH)
        shares.append(share)
        times.append(done - began)
        tables.append(time.perf_counter() - done)
        peaks.append(usage.peak_bytes or 0)

    growing(one, first_share(sets), seconds)
    return shares, times, tables, peaks


def make_plan(job: Job, *, started: float = 0.0, progress: Progress | None = None) -> dict:
    """The plan of ``job``, ready for JSON: ``seconds`` by part and in total for all steps that the method may take,
    ``peak_bytes`` of resident memory (of GPU memory on a GPU), ``disk_bytes`` at the most and at the end, ``price``.
    ``started``: seconds that a new process takes until it gets to work, to be added.

    Raises InvalidInputError for what the run would refuse.
    """
    config, seconds = job.config, job.config.plan.calibration_seconds
    with deterministic(config.run.threads or torch.get_num_threads()):
        began = time.perf_counter()
        model, tokenizer, real = _load(job)
        loading = again = time.perf_counter() - began
        if loading < _SHORT and real:  # the first time holds the import of the model's module
            began = time.perf_counter()
            _load(job)
            again = time.perf_counter() - began
        limit = config.data.max_length or _context(model)
        lengths = {"max_length": limit, "truncate": config.data.truncate}
        began = time.perf_counter()
        sets = {name: found if found is None else encode(found, tokenizer, name=name, **lengths)
                for name, found in job.sets().items()}  # fmt: skip
        encoding = time.perf_counter() - began
        resident = resident_bytes()
        kept = config.place(config.method.kept_fisher) if config.method.kept_fisher else None
        arguments = job.arguments() | {"kept_fisher": kept}
        looks = LOOKS if get_method(config.method.name).first_order else min(2, 1 + (_refresh(job) > 1))
        with (progress or NO_PROGRESS).task("Trial passes", total=4, unit="part") as task:
            trials, warming = method_trials(
                model, tokenizer, sets, arguments, seconds=0.7 * seconds, looks=looks, whole=looks == LOOKS
            )
            task.advance(2)
            shares, times, tables, peaks = _measuring(model, tokenizer, job, sets, limit, 0.3 * seconds)
            task.advance()
            write_rate, hash_rate = _rates(job.out)
            task.advance()
    chosen = select_parameters(model, list(config.method.parameters) or None)
    changed = sum(p.numel() * p.element_size() for p in chosen.values())
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    files = sum(p.stat().st_size for p in job.before.iterdir() if p.is_file() and p.suffix != ".safetensors")
    restartable = get_method(config.method.name).restartable
    steps, fresh = _steps(job, trials)
    models = 2 + bool(config.model.reference)
    setup, stepping = _method_seconds(trials, warming, steps, fresh)
    s = [trial.share for trial in trials]
    parts = {
        "start and load": started + loading + encoding,
        "set up": setup,
        "steps": stepping,
        "states": (steps if restartable else 0) * changed / write_rate,
        "save": weights / write_rate,
        "measure": models * (again + encoding + fit(shares, times).value()) + fit(shares, tables).value(),
        "evidence": _EVIDENCE_SECONDS + 4 * weights / hash_rate,
    }
    in_use = [fit(s, [max(1, trial.peak_bytes or 1) for trial in trials]).value(), fit(shares, peaks).value()]
    total, records = sum(parts.values()), sum(len(found) for found in sets.values() if found)
    evidence = _EVIDENCE_BYTES + _RECORD_BYTES * records
    state = 2 * changed if restartable else 0
    price, end = config.plan.price_per_hour, weights + files + evidence
    return {
        "method": config.method.name, "steps": steps, "share_tried": s[-1], "weights_read": real,
        "trials": [asdict(trial) for trial in trials], "resident_bytes": resident,
        "model": {"parameters": model.num_parameters(), "bytes": weights},
        "records": {name: len(found or ()) for name, found in sets.items()},
        "seconds": {**parts, "total": total},
        "peak_bytes": int(max(in_use)) + (resident if model.device.type == "cpu" else weights),
        "disk_bytes": {"most": max(state, state // 2 + end), "at the end": end},
        "price": {"amount": total / 3600 * price, "currency": config.plan.currency} if price else None,
    }  # fmt: skip


def _context(model) -> int:
    from fastunlearn.audit.exposure import context_length

    return context_length(model)


def _refresh(job: Job) -> int:
    return getattr(check_method(job.config), "refresh", 1)
