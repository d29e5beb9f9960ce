"""Choice of the backend that computes an op: explicit, and never silent.

The order is: the ``backend=`` argument, then the environment variable ``FASTUNLEARN_BACKEND``, then the
best live backend for the device of the tensors. A backend that was asked for by name and is not live
raises :class:`~fastunlearn.errors.BackendUnavailableError` with the reason; nothing else is run in its place.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

import torch

from fastunlearn.errors import BackendUnavailableError, InvalidInputError

__all__ = ["BACKENDS", "backend_module", "build_report", "choose_backend", "cpu_isa", "extension", "why_not_live",
           "why_not_on"]  # fmt: skip

#: Every backend by name: what it is, and the device type its tensors live on (None = any).
BACKENDS: dict[str, tuple[str, str | None]] = {
    "reference": ("plain PyTorch; defines the right answer", None),
    "cpu": ("compiled C++ kernels, instruction set chosen at run time", "cpu"),
    "cuda": ("compiled CUDA kernels", "cuda"),
    "triton": ("Triton kernels, compiled when first used", "cuda"),
}
#: The dtypes that a backend takes, where it does not take all: others go to the next backend of the op.
DTYPES = {"triton": (torch.float32, torch.bfloat16, torch.float16)}
HALVES = (torch.bfloat16, torch.float16)
_EXTENSIONS = {"cpu": "fastunlearn._cpu", "cuda": "fastunlearn._cuda"}
_BEST_FIRST = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}
ISA_VARIABLE = "FASTUNLEARN_CPU_ISA"
BACKEND_VARIABLE = "FASTUNLEARN_BACKEND"
#: What a GPU must have, for CUDA and Triton kernels: bfloat16 products, copies that do not wait.
LEAST_CAPABILITY = (8, 0)


@functools.cache
def build_report() -> dict:
    """What the build of this installation did, per extension (empty where there was no build)."""
    path = Path(__file__).resolve().parents[1] / "_build_report.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def backend_module(package: str, backend: str) -> ModuleType:
    """The file of an op that computes by ``backend``, imported when first asked for (Triton is slow to import)."""
    return importlib.import_module(f"{package}.{backend}")


@functools.cache
def _load(backend: str) -> tuple[ModuleType | None, str]:
    """The extension module of ``backend`` (or None) and, where it is None, the reason."""
    try:
        return importlib.import_module(_EXTENSIONS[backend]), ""
    except ModuleNotFoundError:
        built = build_report().get("extensions", {}).get(backend)
        if built is None:
            return None, "the extension was never built here: run `pip install --no-build-isolation .`"
        if built.get("built"):
            return None, "the extension was built but its file is gone: install the package again"
        return None, f"not built: {built.get('reason', 'no reason recorded')}"
    except ImportError as error:
        return None, f"the extension is there but does not load: {error}"


def extension(backend: str) -> ModuleType:
    """The compiled module of ``backend`` ("cpu" or "cuda").

    Raises BackendUnavailableError with the reason where it is not there.
    """
    module, reason = _load(backend)
    if module is None:
        raise BackendUnavailableError(f"backend {backend!r} is not live: {reason}")
    return module


def cpu_isa() -> str:
    """The instruction set that the CPU kernels use: the one named in ``FASTUNLEARN_CPU_ISA``, else the best.

    Raises BackendUnavailableError where the named one is unknown, was not built or is not in this CPU.
    """
    live = extension("cpu").live_isas()
    wanted = os.environ.get(ISA_VARIABLE, "").strip().lower()
    if not wanted:
        return live[-1]
    if wanted not in live:
        raise BackendUnavailableError(
            f"{ISA_VARIABLE}={wanted!r} cannot run here; use one of {', '.join(live)}, or unset it"
        )
    return wanted


def why_not_live(backend: str) -> str:
    """Why ``backend`` cannot run here, in words; "" where it can."""
    if backend not in BACKENDS:
        return f"unknown backend; the backends are {', '.join(BACKENDS)}"
    if backend == "reference":
        return ""
    if backend == "triton":
        return _why_no_triton()
    module, reason = _load(backend)
    if module is None:
        return reason
    if backend == "cpu":
        try:
            cpu_isa()
        except BackendUnavailableError as error:
            return str(error)
    if backend == "cuda":
        return _why_no_gpu("the extension is built") or _why_no_driver()
    return ""


def why_not_on(backend: str, device: torch.device) -> str:
    """Why ``backend`` cannot run on tensors of ``device``, as far as that device is to blame or no device would do."""
    reason = why_not_live(backend)
    if reason or BACKENDS[backend][1] != "cuda" or device.type != "cuda" or not torch.cuda.is_available():
        return reason
    capability = _capability(torch.cuda.current_device() if device.index is None else device.index)
    if capability >= LEAST_CAPABILITY:
        return ""
    return f"{device} has capability {_dotted(capability)}, and the kernels need {_dotted(LEAST_CAPABILITY)} or newer"


def _interpreted() -> bool:
    """Whether Triton kernels run in its interpreter, on CPU tensors: for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _why_no_triton() -> str:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed: pip install triton (Linux)"
    return "" if _interpreted() else _why_no_gpu("Triton is installed")


def _why_no_gpu(state: str) -> str:
    """Why none of the GPUs runs kernels, after ``state``, which is what is there for it; "" where one does."""
    if not torch.cuda.is_available():
        return f"{state}, but PyTorch sees no CUDA device"
    every = [_capability(index) for index in range(torch.cuda.device_count())]
    if any(capability >= LEAST_CAPABILITY for capability in every):
        return ""
    there = ", ".join(_dotted(capability) for capability in every)
    return f"{state}, but needs a GPU of capability {_dotted(LEAST_CAPABILITY)} or newer; there is {there}"


@functools.cache
def _capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


@functools.cache
def _why_no_driver() -> str:
    """PyTorch and the extension have a CUDA runtime each; the driver may be new enough for the first alone."""
    reason = extension("cuda").why_no_device()
    return f"the extension is built, but its CUDA runtime finds no device: {reason}" if reason else ""


def _best_first(device: torch.device, dtype: torch.dtype | None) -> tuple[str, ...]:
    best = _BEST_FIRST.get(device.type, ("reference",))
    if device.type != "cuda" or not torch.cuda.is_available():
        return best
    if dtype in HALVES and not torch.are_deterministic_algorithms_enabled():
        capability = _capability(torch.cuda.current_device() if device.index is None else device.index)
        # Hopper's and later data centres' products of warp groups, which Triton writes: the CUDA kernels' (wmma) reach
        # about two thirds of that rate (arXiv 2402.13499). GPUs of 12.x have the latter alone.
        if (9, 0) <= capability < (12, 0):
            return "triton", *(name for name in best if name != "triton")
    return best


def choose_backend(
    requested: str | None, device: torch.device, offered: tuple[str, ...], dtype: torch.dtype | None = None,
    takes: Mapping[str, Iterable[torch.dtype]] | None = None,
) -> str:  # fmt: skip
    """The backend to run an op on.

    ``requested``: the caller's ``backend=`` argument (None = not stated). ``device``: where the tensors
    are. ``offered``: the backends that the op has. ``dtype``: of the tensors; backends that lack it
    (:data:`DTYPES`, or ``takes``, the op's own) do not count as offered. Raises InvalidInputError for an unknown name
    and BackendUnavailableError for one that is not live, is not offered, or is for another device or dtype, and where
    ``FASTUNLEARN_CPU_ISA`` names an instruction set that cannot run.
    """
    source, takes = "backend", {**DTYPES, **(takes or {})}
    lacking = tuple(name for name in offered if dtype is not None and dtype not in takes.get(name, (dtype,)))
    offered = tuple(name for name in offered if name not in lacking)
    if requested is None:
        requested = os.environ.get(BACKEND_VARIABLE, "").strip().lower() or None
        source = BACKEND_VARIABLE
    if requested is None:
        best = _best_first(device, dtype)
        if "cpu" in best and "cpu" in offered and os.environ.get(ISA_VARIABLE) and _load("cpu")[0] is not None:
            cpu_isa()  # one that was asked for by name and is not there: an error here too, not the reference
        return next(name for name in best if name in offered and not why_not_on(name, device))
    if requested not in BACKENDS:
        raise InvalidInputError(f"{source}={requested!r} is unknown; use one of {', '.join(BACKENDS)}")
    if requested in lacking:
        raise BackendUnavailableError(
            f"{source}={requested!r} does not take {dtype} in this op, only {', '.join(map(str, takes[requested]))}: "
            f"convert, or choose another backend"
        )
    if requested not in offered:
        raise BackendUnavailableError(
            f"{source}={requested!r}: this op has no such backend; it has {', '.join(offered)}"
        )
    reason = why_not_on(requested, device)
    if reason:
        raise BackendUnavailableError(f"{source}={requested!r} is not live: {reason}")
    needs = "cpu" if requested == "triton" and _interpreted() else BACKENDS[requested][1]
    if needs is not None and needs != device.type:
        raise BackendUnavailableError(
            f"{source}={requested!r} works on {needs} tensors, and these are on {device.type}: "
            f"move them, or choose another backend"
        )
    return requested
