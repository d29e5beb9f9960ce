"""Evidence of a run for a third party: a folder of facts, a hash-chained log, signatures, and the check of all three.

Nothing here proves what a model has forgotten; it shows which procedure was run on which weights, and what measurements
of the result say (docs/evidence.md).
"""

import importlib

# By name, so that a check of a folder does not wait for PyTorch.
_HOMES = {
    "Check": "verification",
    "EvidenceLog": "log",
    "Purged": "purging",
    "Requested": "run",
    "RunRecord": "run",
    "Trace": "traces",
    "VerificationResult": "verification",
    "deterministic": "determinism",
    "find_traces": "traces",
    "generate_key": "keys",
    "purge": "purging",
    "record_table": "table",
    "verify": "verification",
    "write_evidence": "folder",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
