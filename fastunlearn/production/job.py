"""One production run as it is asked for: which model, which records, where the results go."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fastunlearn.data.loading import HUB, load_records
from fastunlearn.data.records import Record
from fastunlearn.errors import InvalidInputError
from fastunlearn.production.config import check_method, method_settings
from fastunlearn.production.schema import Config

__all__ = ["Asked", "Job", "job_of", "read_set"]


@dataclass(frozen=True)
class Asked:
    """One request: its identifier, its records, and when it was received (ISO 8601, "" where unknown)."""

    id: str
    records: tuple[Record, ...]
    received: str = ""


@dataclass(frozen=True, kw_only=True)
class Job:
    """``before``: the model folder to start from. ``out``, ``evidence``, ``state``, ``salts``: what is made. The forget
    set is the requests' records in their order, each once. ``notes`` go into the evidence."""

    config: Config
    before: Path
    out: Path
    evidence: Path
    state: Path
    salts: Path
    requests: tuple[Asked, ...]
    retain: tuple[Record, ...]
    held_out: tuple[Record, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def forget(self) -> list[Record]:
        return [record for one in self.requests for record in one.records]

    def sets(self) -> dict[str, list[Record] | None]:
        """The three sets by name; None for one that was not given."""
        found = {"forget": self.forget, "retain": list(self.retain), "held_out": list(self.held_out)}
        return {name: records or None for name, records in found.items()}

    def arguments(self) -> dict:
        """The keyword arguments of ``unlearn`` besides data, progress, state and a kept Fisher."""
        method, data = self.config.method, self.config.data
        return {
            "method": method.name, "parameters": list(method.parameters) or None, "seed": method.seed,
            "max_length": data.max_length or None, "truncate": data.truncate, "batch_size": method.batch_size,
            "memory": method.memory, **method_settings(self.config),
        }  # fmt: skip

    def identity(self, threads: int) -> dict[str, str]:
        """What must be the same for a restart to go on, by the words that a message would use: all that decides the
        bits of the weights, since the evidence will say that one computation gave them."""
        from fastunlearn import __version__
        from fastunlearn.evidence.commitments import set_hash
        from fastunlearn.evidence.digests import model_digest
        from fastunlearn.evidence.environment import environment, machine_type

        config = self.config.to_dict()
        del config["method"]["kept_fisher"]  # its content counts, not its path
        facts = {
            "model.folder": model_digest(self.before)["files"],
            "model.device": config["model"]["device"],
            "model.trust_remote_code": config["model"]["trust_remote_code"],
            "method": [config["method"], config["data"]["max_length"], config["data"]["truncate"]],
            "method.kept_fisher": self._kept_digest(),
            "run.threads": threads,
            "the version of fastunlearn": __version__,
            "the machine and its software": machine_type(environment(threads, deterministic=True)),
            "the requests": [[one.id, len(one.records)] for one in self.requests],
        }
        for name, records in self.sets().items():  # to the last white space: other spaces may be other tokens
            facts[f"the {name} records"] = set_hash(records or (), b"")
        return {name: hashlib.sha256(json.dumps(fact, sort_keys=True).encode()).hexdigest()
                for name, fact in facts.items()}  # fmt: skip

    def kept_fisher(self) -> Path | None:
        """The file of the kept Fisher, None where the method has none."""
        name = self.config.method.kept_fisher
        return self.config.place(name) if name else None

    def _kept_digest(self) -> str:
        from fastunlearn.evidence.canonical import file_digest

        path = self.kept_fisher()
        try:
            return "" if path is None else file_digest(path)[0]
        except OSError as error:
            raise InvalidInputError(f"method.kept_fisher: {path} cannot be read: {error.strerror or error}") from error


def read_set(config: Config, name: str) -> list[Record]:
    """The records of data.forget, data.retain or data.held_out; [] where the file is not given."""
    value = getattr(config.data, name)
    if not value:
        return []
    try:
        return load_records(value if value.startswith(HUB) else config.place(value))
    except InvalidInputError as error:
        raise InvalidInputError(f"data.{name}: {error}") from error


def _once(records: Sequence[Record]) -> tuple[Record, ...]:
    return tuple(dict.fromkeys(records))


def job_of(config: Config) -> Job:
    """The run that the configuration asks for by itself, without a ledger. Raises InvalidInputError."""
    check_method(config)
    if not config.data.forget:
        raise InvalidInputError(
            f"{config.path.name}: data.forget is not given: name its file, or use `fastunlearn requests run`"
        )
    asked = Asked("data.forget", _once(read_set(config, "forget")))
    evidence = config.place(config.evidence.folder)
    return Job(
        config=config, before=config.place(config.model.folder), out=config.place(config.model.out), evidence=evidence,
        state=config.place(config.run.state), salts=config.place(config.evidence.salts) / f"{evidence.name}.json",
        requests=(asked,), retain=tuple(read_set(config, "retain")), held_out=tuple(read_set(config, "held_out")),
    )  # fmt: skip
