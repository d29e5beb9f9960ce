"""The machine and the software of a run, as far as its numbers depend on them; no host name, no path, no user."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from .digests import code_digest, kernels_digest

__all__ = ["differences", "environment", "machine_type", "processor"]

#: What must be the same for the same bits: by these paths in :func:`environment`.
_MACHINE_TYPE = (
    ("machine", "processor"), ("machine", "architecture"), ("machine", "system"), ("machine", "isa"),
    ("machine", "gpus"), ("versions", "torch"), ("versions", "transformers"), ("code", "digest"), ("kernels", "digest"),
    ("torch", "blas"), ("torch", "isa"),
)  # fmt: skip


def processor() -> str:
    """The CPU's model name, "" where the system does not tell."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor()


def _blas() -> str:
    import torch

    found = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    return found[1] if found else ""


def environment(threads: int, *, deterministic: bool) -> dict:
    """``machine``, ``versions``, ``torch``, ``code``, ``kernels``; ``threads`` and ``deterministic`` as given."""
    import torch

    from fastunlearn.info import info

    state = info()
    return {
        "machine": {
            "processor": processor(), "architecture": platform.machine(), "system": platform.system(),
            "isa": state["cpu"]["chosen"], "gpus": [device["name"] for device in state["cuda"]["devices"]],
        },
        "versions": state["versions"],
        "backends": {name: backend["live"] for name, backend in state["backends"].items()},
        "torch": {"blas": _blas(), "isa": torch.backends.cpu.get_cpu_capability()},
        "threads": threads,
        "deterministic": deterministic,
        "code": code_digest(),
        "kernels": kernels_digest(),
    }  # fmt: skip


def machine_type(about: dict) -> dict[str, object]:
    """Of what :func:`environment` gives, all that bits depend on."""
    return {f"{section} {name}": about.get(section, {}).get(name) for section, name in _MACHINE_TYPE}


def differences(recorded: dict, here: dict) -> list[str]:
    """In what this machine differs from the recorded one where bits depend on it; [] for the same machine type."""
    found = []
    then, now = machine_type(recorded), machine_type(here)
    for what in then:
        if then[what] != now[what]:
            found.append(what if what.endswith(" digest") else f"{what}: {then[what]!r} then, {now[what]!r} here")
    return found
