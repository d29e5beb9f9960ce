"""Processes for tests, forked from one that has imported PyTorch, transformers and this package: seconds less for each.

All forks of a worker have the same hash seed. Where the order of sets could tell processes apart, the test starts one
of them anew (``fork=False``).
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["Fork", "start"]

IMPORTED = (
    "torch.distributed.tensor", "transformers.models.gpt2.modeling_gpt2", "transformers.models.llama.modeling_llama",
    "fastunlearn.solve", "fastunlearn.operators",
)  # fmt: skip
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(IMPORTED))


def _run(script: str, arguments: list[str], environment: dict[str, str], outputs: tuple[str, str]) -> None:
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY), number)
    os.environ.update(environment)
    sys.argv = ["-c", *arguments]
    exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})


class Fork:
    """A script that runs in a fork; like subprocess.Popen, as far as tests use that."""

    def __init__(self, script: str, arguments: list[str], environment: dict[str, str]):
        self._folder = tempfile.TemporaryDirectory()
        self._outputs = [Path(self._folder.name) / name for name in ("out", "err")]
        for path in self._outputs:
            path.touch()
        outputs = tuple(map(str, self._outputs))
        self._process = _context.Process(target=_run, args=(script, arguments, environment, outputs))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def communicate(self, timeout: float) -> tuple[str, str]:
        """What it wrote, when it has ended. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self._process.is_alive():
            self._process.kill()
            raise subprocess.TimeoutExpired("a fork", timeout)
        out, err = (path.read_text() for path in self._outputs)
        self._folder.cleanup()
        return out, err


def start(script: str, *arguments: str, environment: dict[str, str] | None = None, fork: bool = True):
    """Runs the Python ``script`` in a fork, or in a new process; with ``communicate`` and ``returncode``."""
    environment = environment or {}
    if fork:
        return Fork(script, list(arguments), environment)
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], env={**os.environ, **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
