"""What a run hands over to be made into evidence."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastunlearn.data.records import Record

    from .log import EvidenceLog

__all__ = ["Requested", "RunRecord"]


@dataclass(frozen=True, kw_only=True)
class Requested:
    """A request: its identifier in the owner's books, when it came (any text), and the records to forget."""

    id: str
    records: Sequence[Record]
    received: str = ""


@dataclass(kw_only=True)
class RunRecord:
    """One run, finished. Everything that goes into the folder is JSON-ready and holds no text of a record.

    - ``log``: open. ``before``, ``after``: model folders.
    - ``requests``: the forget set is their records, in this order. ``retain``, ``held_out``: as they were used.
    - ``arguments``: the keyword arguments of :func:`fastunlearn.unlearn` besides data, ``progress``, ``on_step`` and
      ``kept_fisher``, settings of the method included; they are what a re-computation starts from.
    - ``kept_fisher``: the file that was used. ``result``: ``UnlearnResult.to_dict()``.
    - ``metrics``: ``before``, ``after``, ``reference`` (or None), each from :func:`fastunlearn.audit.measure.measure`.
      ``measured_with``: that function's ``batch_size``, ``level``, ``resamples``, ``seed``, and ``max_length`` and
      ``truncate`` of the encoding.
    - ``table``: :func:`~fastunlearn.evidence.table.record_table` of the model after, of which an auditor re-measures
      a sample; or None.
    - ``attacks``: what else was tried, and what it found. ``reference``: ``kind`` ("retrained", ...) and ``folder``.
    - ``configuration``: all of it, as the user gave it. ``not_claimed``, ``notes``: sentences added to the usual ones.
    - ``salts``: the private file of salts, outside of the folder; made where it is missing.
    - ``attachments``: files (paths) or texts to take in, by name.
    - ``device``, ``threads``, ``deterministic``: how it was computed. ``trust_remote_code``: whether the model before
      may run its Python files, where it must be loaded for the names that its weights have in a saved copy.
    """

    log: EvidenceLog
    before: str | os.PathLike
    after: str | os.PathLike
    requests: Sequence[Requested]
    arguments: Mapping[str, object]
    result: Mapping[str, object]
    metrics: Mapping[str, object]
    salts: str | os.PathLike
    threads: int
    retain: Sequence[Record] = ()
    held_out: Sequence[Record] = ()
    measured_with: Mapping[str, object] = field(default_factory=dict)
    kept_fisher: str | os.PathLike | None = None
    table: Mapping[str, object] | None = None
    attacks: Mapping[str, object] = field(default_factory=dict)
    reference: Mapping[str, object] | None = None
    configuration: Mapping[str, object] = field(default_factory=dict)
    not_claimed: Sequence[str] = ()
    notes: Sequence[str] = ()
    attachments: Mapping[str, object] = field(default_factory=dict)
    device: str = "cpu"
    deterministic: bool = False
    trust_remote_code: bool = False

    @property
    def forget(self) -> list[Record]:
        """All records to forget, in the order of the requests."""
        return [record for request in self.requests for record in request.records]

    def sets(self) -> dict[str, Sequence[Record]]:
        """All records, by set."""
        return {"forget": self.forget, "retain": self.retain, "held_out": self.held_out}
