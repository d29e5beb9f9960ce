"""What follows from the checks, in plain words."""

from __future__ import annotations

from .canonical import visible
from .reading import Reading
from .result import VerificationResult

__all__ = ["conclusions"]

#: By the check that must have passed.
_SHOWN = (
    ("signer", "The folder is as the owner of the key that you gave signed it; not one byte was changed since."),
    ("signature", "The parts of the folder belong together; nothing was changed after it was signed."),
    ("log", "The log is whole from its beginning to the sealing of the folder."),
    ("weights", "Only weights that the stated procedure may change differ between the two models that it names."),
    ("model after", "The model handed over is the one that this folder speaks of."),
    ("model before", "The model before is the one that this folder speaks of."),
    ("records", "The records given are those that the run used, as far as the line above says."),
    ("metrics", "The stated measurements are what this model gives on the records that were measured again."),
    ("update", "The stated procedure, applied to the model before, gives the model after."),
)
_OPEN = (
    ("signer", "Who signed: compare the fingerprint of the key with the owner, by another way than this folder came."),
    ("model after", "That a model in your hands is the one after: give it with --model."),
    ("records", "Which records were meant: the owner can give you a record with its salt."),
    ("metrics", "That the measurements are right: give the model and records, and a sample is measured again."),
    ("update", "That the stated procedure was run: give the model before and the records, with --recompute."),
)


def conclusions(reading: Reading, result: VerificationResult) -> tuple[list[str], list[str]]:
    """What the folder shows, and what it does not. Where a check of the folder itself failed, it shows nothing."""
    passed = {check.name for check in result.checks if check.passed}
    claims = reading.document("not_claimed.json").get("not_claimed")
    stated = [visible(one) for one in claims] if isinstance(claims, list) else []
    if not result.passed:
        return [], ["Anything: at least one check failed, so nothing in this folder can be relied on.", *stated]
    shown = [sentence for name, sentence in _SHOWN if name in passed]
    if "signer" in passed:
        shown = [sentence for sentence in shown if sentence != _SHOWN[1][1]]
    return shown, [sentence for name, sentence in _OPEN if name not in passed] + stated
