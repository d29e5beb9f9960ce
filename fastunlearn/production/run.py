"""The production run: steps, model, measurements, evidence. Killed at any moment and started again, it goes on.

Every part leaves a mark that is written whole or not at all, and is passed over where its mark is there:

    the weights after each step     state/steps.safetensors, replaced in one rename
    the model folder                appears whole, with the run's identifier in unlearning.json
    the evidence folder             appears whole, with the run in manifest.json; then the state folder goes
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from fastunlearn.errors import InvalidInputError, OutputError
from fastunlearn.evidence import EvidenceLog, deterministic
from fastunlearn.evidence.canonical import walk
from fastunlearn.evidence.commitments import Salts
from fastunlearn.evidence.folder import refuse_texts
from fastunlearn.evidence.keys import need as need_signatures
from fastunlearn.evidence.layout import MANIFEST
from fastunlearn.operators.state import PassState
from fastunlearn.production.job import Job
from fastunlearn.production.proof import prove
from fastunlearn.production.state import RUN, STEPS, RunState, remove_state
from fastunlearn.progress import NO_PROGRESS, Progress
from fastunlearn.storage import load_model, refuse_existing, save_model
from fastunlearn.storage.files import check_free_space, remove_leftovers
from fastunlearn.storage.lock import exclusive
from fastunlearn.unlearn import get_method, unlearn
from fastunlearn.unlearn.request import prepare

__all__ = ["Outcome", "check_job", "hold", "lock_of", "run_job"]

ACCOUNT = "unlearning.json"


@dataclass(frozen=True)
class Outcome:
    """What a run made. ``account``: what unlearning.json says. ``restarted``: it was taken up after a kill."""

    out: Path
    evidence: Path
    account: dict
    restarted: bool


def _threads(job: Job) -> int:
    return job.config.run.threads or torch.get_num_threads()


def _load(folder: Path, job: Job):
    model = job.config.model
    return load_model(folder, device=model.device, trust_remote_code=model.trust_remote_code)


def _read(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _account(folder: Path) -> dict:
    return _read(folder / ACCOUNT)


def _is_of(evidence: Path, run: str) -> bool:
    """Whether the folder is the evidence of that run. That there is one tells nothing: an old one may have been put
    back."""
    return _read(evidence / MANIFEST).get("run") == run


def _needed(job: Job) -> int:
    """Bytes that the run writes besides small files: the new model, and the state twice while it is replaced."""
    size = sum(path.stat().st_size for path in job.before.glob("*.safetensors"))
    return size * (1 + 2 * get_method(job.config.method.name).restartable)


def _check_places(job: Job) -> None:
    for place, key in ((job.out, "model.out"), (job.evidence, "evidence.folder")):
        refuse_existing(place, advice=f"move it away, or set another {key} in {job.config.path.name}")
    Salts.held(job.salts, None, len(job.forget))
    check_free_space(job.out, _needed(job))


def _check_texts(job: Job) -> None:
    """Refuses what would keep the evidence from being written in the end: text of a record in what it takes over."""
    refuse_texts(
        {
            "configuration.json": job.config.to_dict(), "not_claimed.json": list(job.notes),
            "requests.json": [[one.id, one.received] for one in job.requests],
            "models.json": [name for name, _ in walk(job.before)] if job.before.is_dir() else [],
        },
        {name: records or () for name, records in job.sets().items()}, job.before,
    )  # fmt: skip


def check_job(job: Job) -> dict:
    """All that can be checked without computing or writing: what the run would do, in words and numbers.

    Raises what the run would raise for a bad model, record, setting or place, and where the disk is too small.
    """
    need_signatures()
    if not (job.state / RUN).is_file():
        _check_places(job)
    _check_texts(job)
    model, tokenizer = _load(job.before, job)
    own = ("parameters", "seed", "max_length", "truncate", "batch_size", "memory")
    arguments = {name: value for name, value in job.arguments().items() if name in own}
    request = prepare(model, tokenizer, **job.sets(), **arguments)
    chosen = sum(p.numel() for p in request.parameters.values())
    return {
        "requests": [one.id for one in job.requests],
        **{f"{name} records": len(getattr(request, name)) for name in ("forget", "retain", "held_out")},
        "method": job.config.method.name, "settings": job.config.method.settings,
        "weights that may change": chosen, "weights": model.num_parameters(),
        "model folder to make": str(job.out), "evidence folder to make": str(job.evidence),
        "bytes to write, about": _needed(job), "notes": list(job.notes),
    }  # fmt: skip


def lock_of(state: Path) -> Path:
    """The lock file of the run with that state folder, beside it."""
    return state.with_name(f".{state.name}.lock")


def hold(state: Path) -> AbstractContextManager[None]:
    """Holds the run of a state folder; raises OutputError where another process does."""
    return exclusive(lock_of(state), f"the run in {state}")


def run_job(
    job: Job,
    *,
    progress: Progress | None = None,
    on_step: Callable[[dict], None] | None = None,
    on_done: Callable[[], None] | None = None,
) -> Outcome:
    """Runs ``job``, or goes on with it where an earlier try was killed; the state folder says which.

    ``on_done``: called when all is made and before the state goes; after a kill in between, it is called again.

    Raises OutputError where results are there already, another run is at work on the same state, or something cannot
    be written; what an interrupted run has reached stays, and the same call goes on with it. Raises InvalidInputError
    where the method found nothing to change, and before any computing where the package that signs is not installed.
    """
    need_signatures()
    progress = progress or NO_PROGRESS
    job.state.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(hold(job.state))
        stack.enter_context(deterministic(_threads(job)))
        remove_leftovers(job.state / RUN, job.state / STEPS, job.out, job.evidence)
        if not (job.state / RUN).is_file():
            _check_places(job)
        if not job.evidence.exists():
            _check_texts(job)
        state = RunState(job.state, job.identity(_threads(job)), {"requests": [one.id for one in job.requests]})
        account = _account(job.out)
        Salts.held(job.salts, state.run, len(job.forget))
        if not (_is_of(job.evidence, state.run) and account.get("run") == state.run):  # else killed before the end only
            refuse_existing(job.evidence)  # another's: told before anything is computed
            log = stack.enter_context(EvidenceLog(state.log, run=state.run))
            log.append("restarted" if state.restarted else "started", threads=_threads(job))
            _make_model(job, state, log, progress, on_step)
            account = _account(job.out)
            prove(job, log, account, threads=_threads(job), progress=progress)
        if on_done is not None:
            on_done()
        remove_state(job.state)
    return Outcome(job.out, job.evidence, account, state.restarted)


def _make_model(job: Job, state: RunState, log: EvidenceLog, progress: Progress, on_step) -> None:
    """The changed model in its folder, unless it is there already from before a kill."""
    if job.out.exists():
        if _account(job.out).get("run") != state.run:
            raise OutputError(f"{job.out} is there already, and is not of this run: choose another model.out")
        return
    model, tokenizer = _load(job.before, job)
    method = get_method(job.config.method.name)
    steps = PassState(state.steps, 0, state.identity) if method.restartable else None

    def note(step: dict) -> None:
        log.append("step", **step)
        if on_step is not None:
            on_step(step)

    result = unlearn(
        model, tokenizer, **job.sets(), **job.arguments(), kept_fisher=job.kept_fisher(), progress=progress,
        on_step=note, state=steps,
    )  # fmt: skip
    if len(result.steps) < 2:
        log.close()
        remove_state(job.state)
        raise InvalidInputError(f"nothing was changed ({result.stopped}): no model and no evidence were made")
    account = result.to_dict() | {"run": state.run}
    save_model(result.model, tokenizer, job.out, extra={ACCOUNT: account})
    log.append("saved", stopped=result.stopped, gradients=result.gradients)
