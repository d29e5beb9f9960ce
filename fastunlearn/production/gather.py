"""Requests to one run: gathers what is open, finds what depends on it, runs, and marks what is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from fastunlearn.data.records import Record
from fastunlearn.errors import InvalidInputError
from fastunlearn.evidence import Trace, find_traces
from fastunlearn.evidence.known import known_as_saved, known_texts
from fastunlearn.production.config import check_method
from fastunlearn.production.dependents import near_duplicates
from fastunlearn.production.job import Asked, Job, read_set
from fastunlearn.production.ledger import Ledger, Request, Run
from fastunlearn.production.run import Outcome, hold, lock_of, run_job
from fastunlearn.production.schema import Config
from fastunlearn.production.state import remove_state
from fastunlearn.progress import Progress
from fastunlearn.storage.lock import exclusive

__all__ = ["Gathered", "gather", "run_requests", "would_be"]


@dataclass(frozen=True)
class Gathered:
    """A run of requests and the job that it is. ``dependents``: retained record to the request that it depends on."""

    run: Run
    job: Job
    dependents: dict[Record, int]


def _current(config: Config, ledger: Ledger) -> str:
    """The model to start from: what the last run made, else the configuration's."""
    done = ledger.runs("done")
    return done[-1].out if done else str(config.place(config.model.folder))


def _groups(ledger: Ledger, run: Run) -> list[tuple[list[Request], list[Record]]]:
    """The run's requests with their records, each once: requests that share a record are one group with one proof."""
    groups: list[tuple[list[Request], dict[Record, None]]] = []
    for one in ledger.requests():
        if one.run == run.number:
            mine = dict.fromkeys(ledger.texts(one))
            shared = [group for group in groups if not mine.keys().isdisjoint(group[1])]
            groups = [group for group in groups if group not in shared]
            records = {record: None for group in shared for record in group[1]} | mine
            groups.append((sorted([r for g in shared for r in g[0]] + [one], key=lambda r: r.number), records))
    return [(requests, list(records)) for requests, records in sorted(groups, key=lambda group: group[0][0].number)]


def gather(config: Config, ledger: Ledger, run: Run) -> Gathered:
    """The job of ``run``. The same ledger and files give the same job, so that a killed run can go on.

    Raises InvalidInputError: a setting, a file, or a dependent record where requests.dependents is "refuse".
    """
    check_method(config)
    groups = _groups(ledger, run)
    asked = [Asked(", ".join(one.id for one in group), tuple(found), group[0].received) for group, found in groups]
    owner = [group[0].number for group, found in groups for _ in found]
    seen = {record for one in asked for record in one.records}
    gone = ledger.forgotten()
    retain = [record for record in read_set(config, "retain") if record not in seen and ledger.hash(record) not in gone]
    held_out = [record for record in read_set(config, "held_out") if record not in seen]
    forget = [record for one in asked for record in one.records]
    near = near_duplicates(forget, retain, config.requests.near_duplicate, seed=config.method.seed)
    dependents = {retain[place]: owner[mine] for place, mine, _ in near}
    notes = []
    if dependents:
        how = config.requests.dependents
        if how == "refuse":
            raise InvalidInputError(
                f"{len(dependents)} retained records are near-duplicates of records to forget (the first is record "
                f"{near[0][0] + 1} of data.retain that is left): set requests.dependents to 'forget' or 'drop'"
            )
        retain = [record for record in retain if record not in dependents]
        if how == "forget":
            asked = [
                replace(one, records=(*one.records, *(r for r, n in dependents.items() if n == group[0].number)))
                for one, (group, _) in zip(asked, groups, strict=True)
            ]
        words = "were forgotten with them" if how == "forget" else "were left out of the retained records"
        notes.append(f"{len(dependents)} retained records are near-duplicates of records to forget and {words}.")
    job = Job(
        config=config, before=config.place(run.before), out=config.place(run.out), evidence=config.place(run.evidence),
        state=_state(config, run),
        salts=config.place(config.evidence.salts) / f"{config.place(run.evidence).name}.json",
        requests=tuple(asked), retain=tuple(retain), held_out=tuple(held_out), notes=tuple(notes),
    )  # fmt: skip
    return Gathered(run, job, dependents)


def run_requests(
    config: Config, *, progress: Progress | None = None, on_step: Callable[[dict], None] | None = None
) -> tuple[Run, Outcome, list[Trace]]:
    """Runs all open requests as one, or goes on with a run that was killed; what is left of the texts afterwards.

    Raises OutputError where another run holds the ledger, InvalidInputError where nothing is open.
    """
    path = config.place(config.requests.ledger)
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path.with_name(f".{path.name}.lock"), f"the ledger {path}"), Ledger(path) as ledger:
        _tidy(config, ledger)
        begun = ledger.runs("running")
        run = begun[0] if begun else ledger.begin(_current(config, ledger), config.model.out, config.evidence.folder)
        try:
            gathered = gather(config, ledger, run)
            hashes = {ledger.hash(record): number for record, number in gathered.dependents.items()}
            outcome = run_job(
                gathered.job, progress=progress, on_step=on_step, on_done=lambda: ledger.finish(run, hashes)
            )
        except BaseException:
            if not _state(config, run).exists():  # nothing is begun on the disk: others can join the requests
                ledger.give_up(run)
            raise
        left = []
        if config.requests.purge:
            ledger.purge()
            left = _left(gathered, ledger)
    return run, outcome, left


def _tidy(config: Config, ledger: Ledger) -> None:
    """What a run left that was killed after its requests were marked done: state, lock file, texts to purge."""
    for run in ledger.runs("done"):
        state = _state(config, run)
        if state.exists() or lock_of(state).exists():
            with hold(state):  # which removes the lock file in the end
                if state.exists():
                    remove_state(state)
    if config.requests.purge:
        ledger.purge()


def _state(config: Config, run: Run) -> Path:
    return config.place(f"{config.run.state}-{run.number:04d}")


def _left(gathered: Gathered, ledger: Ledger) -> list[Trace]:
    """Where the texts of the requests' records are still to be found in what the run made, and in the ledger. With
    requests that have come in since, the ledger is not searched: like records have words in common. What they have in
    common with the tokenizer of the model before, or with fastunlearn's own words, is no trace of them."""
    places = [gathered.job.out, gathered.job.evidence]
    if all(one.status == "done" for one in ledger.requests()):
        places.append(ledger.path)
    before, trust = gathered.job.before, gathered.job.config.model.trust_remote_code
    known = chain(known_texts(before, gathered.job.out), known_as_saved(before, trust_remote_code=trust))
    return find_traces(places, gathered.job.forget, known=known)


def would_be(config: Config) -> Job:
    """The job that :func:`run_requests` would do; the ledger stays as it is."""
    path = config.place(config.requests.ledger)
    with exclusive(path.with_name(f".{path.name}.lock"), f"the ledger {path}"), Ledger(path) as ledger:
        begun = ledger.runs("running")
        run = begun[0] if begun else ledger.begin(_current(config, ledger), config.model.out, config.evidence.folder)
        try:
            return gather(config, ledger, run).job
        finally:
            if not begun:
                ledger.give_up(run)
