"""What bench/device.sh can be asked for: each part a list of steps, each step a process with a limit in seconds."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["BUILD", "PARTS", "SECONDS", "Step", "filled"]

#: In a command: the folder of results, and the seconds that the step itself may take to end in order.
OUT, LEFT = "{out}", "{left}"
PROCESSES = min(12, os.cpu_count() or 1)  # of a check: each holds some memory of the GPU


@dataclass(frozen=True)
class Step:
    """``needs_gpu``: whether a dry run leaves it out."""

    name: str
    seconds: int
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    needs_gpu: bool = False


def _module(name: str, *arguments: str) -> tuple[str, ...]:
    return sys.executable, "-m", name, "--out", OUT, *arguments


def _timing(subject: str, seconds: int, rounds: int = 10) -> Step:
    return Step(subject, seconds, _module("bench.device.timings", "--only", subject, "--rounds", str(rounds)))


def _check(seconds: int, *more: str) -> Step:
    """Many processes: one thread for each, and in each two of those that compile for torch.compile."""
    command = _module("bench.device.check", "--processes", str(PROCESSES), "--seconds", LEFT, *more)
    return Step("check", seconds, command, {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "2"})


def _sanitize(kind: str, seconds: int) -> Step:
    """Without PyTorch's own cache of memory, in which an access beyond a tensor would hit another one unseen; and what
    PyTorch asks of the driver, and is refused, is no error of a kernel."""
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    command = (tool, "--tool", kind, "--error-exitcode", "9", "--report-api-errors", "no", "--launch-timeout", "0",
               sys.executable, "bench/device/small_run.py")  # fmt: skip
    return Step(f"sanitize-{kind}", seconds, command, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, True)


BUILD = Step("build", 150, _module("bench.device.build"), needs_gpu=True)
TESTS = Step("tests", 150, _module("bench.device.gpu_tests"), {"OMP_NUM_THREADS": "1"}, True)
#: How ghost Gram's route is chosen: for no goal, so it comes last wherever it comes.
ROUTES = Step("gram-routes", 60, _module("bench.ghost_gram", "--device", "cuda"), needs_gpu=True)
KINDS = ("memcheck", "racecheck", "initcheck", "synccheck")

#: In the order in which they are worth their time, after the build where that is needed.
FIRST = (
    _check(200, "--go-on"), _timing("hvp", 170), _timing("attention", 130), _timing("hvp-large", 150, 2),
    _timing("cross-entropy", 60), _timing("ghost-gram", 45), _timing("explicit-rows", 45), _timing("accuracy", 60),
    _timing("newton", 120, 2), _timing("hvp-short", 90, 5), _timing("weighted-gradient", 45), _timing("systems", 30),
    _timing("pointwise", 45), ROUTES, TESTS, *(_sanitize(kind, 60) for kind in KINDS),
)  # fmt: skip
PARTS: dict[str, tuple[Step, ...]] = {
    "first": FIRST,
    "build": (BUILD,),
    "check": (_check(440),),
    "tests": (TESTS,),
    "sanitize": tuple(_sanitize(kind, 110) for kind in KINDS),
    "time": (_timing("attention", 140), _timing("cross-entropy", 60), _timing("ghost-gram", 45),
             _timing("explicit-rows", 45), _timing("weighted-gradient", 45), _timing("systems", 30),
             _timing("pointwise", 45), ROUTES),
    "models": (_timing("hvp", 240, 5), _timing("accuracy", 90), _timing("hvp-short", 120, 5)),
    "large": (_timing("hvp-large", 240, 3), _timing("newton", 220, 3)),
}  # fmt: skip
#: Of a whole call, unless it says another number.
SECONDS = dict.fromkeys(PARTS, 470) | {"first": 555}


def filled(steps: Iterable[Step], out: Path, dry: bool) -> list[Step]:
    """With the folder of results in their commands; ``dry``: on the CPU, on tiny shapes, those that can be."""
    found = []
    for step in steps:
        if not (dry and step.needs_gpu):
            command = tuple(str(out) if word == OUT else word for word in step.command)
            command += ("--device", "cpu", "--toy") if dry and OUT in step.command else ()
            found.append(Step(step.name, step.seconds, command, step.environment))
    return found
