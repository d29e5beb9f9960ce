"""What a folder does not show, in plain words: the part of the evidence that a reader must not miss."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["not_claimed"]

_ALWAYS = (
    "That nothing of the records is left in the weights. The measurements say what these attacks find; a stronger "
    "attack may find more.",
    "That these weights are those of a model trained without the records.",
    "That the removal is certified or differentially private: no bound of that kind is given.",
    "That the records were, or were not, among the training data. The same weights can come from different data.",
    "That the records named here are all that there are about a person or a matter.",
    "That copies are gone: backups, caches, optimizer states, and models that were made from the old one.",
    "That what was forgotten stays so after further training or after quantisation.",
    "That the times are right. They are those of the clock of the machine that ran it.",
)
_NO_STEP = (
    "That anything was changed: the procedure found the records forgotten already, by its measure, and took no step.",
)
_NO_REFERENCE = (
    "How near the model is to one trained without the records: no such reference was measured.",
)
_NO_HELD_OUT = (
    "That the records look like records never seen: no held-out records were measured.",
)
_NOT_REPEATABLE = (
    "That a re-computation gives the same bits: the run was not made in the deterministic mode.",
)


def not_claimed(metrics: Mapping, *, deterministic: bool, stepped: bool) -> list[str]:
    """The sentences that hold for a run with these metrics (``before``, ``after``, ``reference``). ``stepped``: whether
    it took a step at all."""
    found = [*_ALWAYS, *(() if stepped else _NO_STEP)]
    if metrics.get("reference") is None:
        found += _NO_REFERENCE
    if (metrics.get("after") or {}).get("held_out") is None:
        found += _NO_HELD_OUT
    if not deterministic:
        found += _NOT_REPEATABLE
    return found
