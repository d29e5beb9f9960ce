"""What fastunlearn.toml may hold: one dataclass per table. The documentation is made from this file."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from fastunlearn.production._options import choice, flag, names, number, required, table, text, whole

__all__ = ["SECTIONS", "Config"]


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """The model before and after."""

    folder: str = required("Model folder (config.json, safetensors, tokenizer) to start from. It is only read.")
    out: str = text("after", "Model folder to make. Never overwritten.")
    reference: str = text("", "Folder of a model trained without the forget records, where there is one.")
    device: str = text("cpu", "cpu, cuda or cuda:N.")
    trust_remote_code: bool = flag(False, "Run the Python files of the model folder.")


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """The records: .jsonl, .json, .csv or .txt files, folders of them, or `hub:NAME` of a data set on the Hub."""

    forget: str = text("", "Records to forget. `fastunlearn requests run` takes them from the ledger instead.")
    retain: str = text("", "Records that the model must keep.")
    held_out: str = text("", "Records like those to forget that the model has never seen: they say when to stop.")
    max_length: int = whole(0, 0, "Most tokens of a record; 0: the model's context.")
    truncate: bool = flag(False, "Cut longer records instead of refusing them.")


@dataclass(frozen=True, kw_only=True)
class MethodSection:
    """How it is done. See `fastunlearn methods`."""

    name: str = text("fisher-removal", "The method.")
    parameters: tuple[str, ...] = names("Patterns of the names of weights that may change; empty: all.")
    kept_fisher: str = text("", "File of `fastunlearn keep-fisher`, for the method that needs no retained records.")
    seed: int = whole(0, 0, "Random seed.", 2**32 - 1)
    memory: str = text("1GB", "Memory for kept factors.")
    batch_size: int = whole(32, 1, "Records per forward pass.")
    settings: dict = table(  # noqa: RUF009
        "Settings of the method, such as `damping = 1e-6`, as `fastunlearn methods NAME` lists them; "
        '"none" stands for null.'
    )


@dataclass(frozen=True, kw_only=True)
class RunSection:
    """The production run."""

    state: str = text("state", "Folder for what a restart needs. Removed when the run is done.")
    threads: int = whole(0, 0, "Threads of the CPU; 0: as PyTorch chooses. A restart must have as many.")


@dataclass(frozen=True, kw_only=True)
class EvidenceSection:
    """The folder for the auditor."""

    folder: str = text("evidence", "Folder to make. Never overwritten.")
    keys: str = text("keys", "Folder of the signing key (private.pem, public.pem). Made where missing; keep it safe.")
    salts: str = text("salts", "Folder for the salts of the records' hashes, one private file a run.")
    attacks: tuple[str, ...] = names("Attacks on the new model, such as `quantise-int4` (docs/attacks.md).")
    lang: str = choice(("en", "ja"), "Language of the report.")


@dataclass(frozen=True, kw_only=True)
class PlanSection:
    """What `fastunlearn plan` reckons with."""

    calibration_seconds: float = number(20.0, 1, "About how long the trial passes on this machine may take.", 3600)
    price_per_hour: float = number(0.0, 0, "Price of this machine per hour; 0: no price is shown.")
    currency: str = text("USD", "Its currency.")


@dataclass(frozen=True, kw_only=True)
class PilotSection:
    """The pilot: a sample of the data, a small model, retrained references, thresholds."""

    folder: str = text("pilot", "Folder for the pilot's report. Replaced by each pilot.")
    base: str = text("", "Model folder to train from. Empty: a new small Llama with the tokenizer of model.folder.")
    width: int = whole(64, 8, "Width of the new small model, a multiple of 8.")
    layers: int = whole(2, 1, "Its layers.")
    forget: int = whole(100, 1, "Most forget records in the sample.")
    retain: int = whole(1000, 1, "Most retained records in the sample.")
    held_out: int = whole(300, 1, "Most held-out records in the sample.")
    steps: int = whole(600, 1, "Training steps of each model.")
    batch_size: int = whole(32, 1, "Records per training step.")
    learning_rate: float = number(3e-3, 1e-9, "Highest learning rate of the training.", 1)
    references: int = whole(2, 1, "Models retrained without the forget records, one seed each.", 20)
    max_forget_excess: float = number(0.05, 0, "No go above: forget accuracy beyond the references' highest.", 1)
    max_retain_loss: float = number(0.02, 0, "No go above: retained accuracy below the references' lowest.", 1)
    max_kl_retain: float = number(0.05, 0, "No go above: KL to the first reference on retained records, nats.")
    max_membership_gap: float = number(
        0.1, 0, "No go above: membership AUC away from the references' mean, up or down.", 1
    )
    max_hours: float = number(0.0, 0, "No go above: hours of the production run by the plan; 0: no limit.")


@dataclass(frozen=True, kw_only=True)
class RequestsSection:
    """The ledger of requests."""

    ledger: str = text("requests.sqlite", "The ledger's file (SQLite).")
    near_duplicate: float = number(
        0.8, 0.1, "Jaccard similarity of word triples from which a retained record depends on one to forget.", 1
    )
    dependents: str = choice(
        ("forget", "drop", "refuse"),
        "What to do with dependent retained records: forget them too, drop them from the retained set, or stop.",
    )
    purge: bool = flag(True, "Delete the texts of a request from the ledger when its run is done.")


#: The tables by name, in the order of the file.
SECTIONS: dict[str, type] = {
    "model": ModelSection,
    "data": DataSection,
    "method": MethodSection,
    "run": RunSection,
    "evidence": EvidenceSection,
    "plan": PlanSection,
    "pilot": PilotSection,
    "requests": RequestsSection,
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """A checked configuration. ``path``: the file it came from; paths in it are relative to that file's folder."""

    path: Path
    model: ModelSection
    data: DataSection = field(default_factory=DataSection)
    method: MethodSection = field(default_factory=MethodSection)
    run: RunSection = field(default_factory=RunSection)
    evidence: EvidenceSection = field(default_factory=EvidenceSection)
    plan: PlanSection = field(default_factory=PlanSection)
    pilot: PilotSection = field(default_factory=PilotSection)
    requests: RequestsSection = field(default_factory=RequestsSection)

    def place(self, value: str) -> Path:
        """A path of the file as seen from the present folder."""
        return (self.path.parent / value).resolve()

    def to_dict(self) -> dict:
        """Every key with its value, ready for JSON."""
        return {
            name: {one.name: _plain(getattr(getattr(self, name), one.name)) for one in fields(section)}
            for name, section in SECTIONS.items()
        }


def _plain(value):
    return list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, dict) else value
