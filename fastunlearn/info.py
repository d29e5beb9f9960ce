"""Which backends are live on this machine, and why the others are not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys

import torch

from fastunlearn.errors import BackendUnavailableError
from fastunlearn.ops import OPS
from fastunlearn.ops._dispatch import BACKENDS, build_report, cpu_isa, extension, why_not_live

__all__ = ["info", "info_text"]

_PACKAGES = ("fastunlearn", "torch", "transformers", "numpy", "safetensors", "datasets", "triton")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> dict:
    """What the CPU extension was compiled with, and what it uses here."""
    try:
        module = extension("cpu")
    except BackendUnavailableError:
        return {"compiled": [], "live": [], "chosen": None, "openmp": False}
    try:
        chosen = cpu_isa()
    except BackendUnavailableError:  # FASTUNLEARN_CPU_ISA names one that is not live: the reason is in backends
        chosen = None
    return {
        "compiled": module.compiled_isas(),
        "live": module.live_isas(),
        "chosen": chosen,
        "openmp": module.openmp(),
    }


def _gpus() -> list[dict]:
    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.cuda.get_device_properties(index)
        capability = f"{device.major}.{device.minor}"
        found.append({"name": device.name, "capability": capability, "memory_bytes": device.total_memory})
    return found


def info() -> dict:
    """The state of this installation, ready for JSON.

    ``backends``: by name, ``live`` (bool), ``what`` and ``reason`` ("" where live). ``cpu``: instruction sets
    compiled, live and chosen, OpenMP. ``cuda``: extension built, architectures, devices. ``triton``: importable.
    ``ops``: the backends of every op. ``versions``, ``threads``, ``machine``. No host name and no path.
    """
    backends = {}
    for name, (what, _) in BACKENDS.items():
        reason = why_not_live(name)
        backends[name] = {"live": not reason, "what": what, "reason": reason}
    built = build_report().get("extensions", {}).get("cuda", {})
    return {
        "backends": backends,
        "cpu": _cpu(),
        "cuda": {
            "extension": bool(built.get("built")),
            "architectures": built.get("archs", []),
            "nvcc": built.get("nvcc"),
            "torch_cuda": torch.version.cuda,
            "devices": _gpus(),
        },
        "triton": importlib.util.find_spec("triton") is not None,
        "ops": {op.name: list(op.backends) for op in OPS.values()},
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "machine": {"system": platform.system(), "processor": platform.machine(), "platform": sys.platform},
    }


def info_text(state: dict | None = None) -> str:
    """:func:`info` as lines for a terminal."""
    state = info() if state is None else state
    cpu, cuda = state["cpu"], state["cuda"]
    lines = ["Backends"]
    for name, backend in state["backends"].items():
        lines.append(f"  {name:10} {'live' if backend['live'] else 'not live':9} {backend['what']}")
        if backend["reason"]:
            lines.append(f"  {'':10} why: {backend['reason']}")
    lines += [
        "CPU kernels",
        f"  instruction set   {cpu['chosen'] or 'none'} (live: {', '.join(cpu['live']) or 'none'};"
        f" compiled: {', '.join(cpu['compiled']) or 'none'})",
        f"  OpenMP            {'yes' if cpu['openmp'] else 'no'}, {state['threads']} threads",
        "GPU",
        f"  CUDA extension    {'built for ' + ', '.join(cuda['architectures']) if cuda['extension'] else 'not built'}",
        f"  CUDA in PyTorch   {cuda['torch_cuda'] or 'none: this PyTorch is built for the CPU only'}",
        f"  Triton            {'importable' if state['triton'] else 'not installed'}",
    ]
    for device in cuda["devices"]:
        gib = device["memory_bytes"] / 2**30
        lines.append(f"  device            {device['name']}, capability {device['capability']}, {gib:.0f} GiB")
    if not cuda["devices"]:
        lines.append("  device            none visible")
    lines.append("Ops and their backends (the best live one for the tensors' device and dtype is taken)")
    lines += [f"  {name:22} {', '.join(backends)}" for name, backends in state["ops"].items()]
    lines.append("Versions")
    lines += [f"  {name:17} {version or 'not installed'}" for name, version in state["versions"].items()]
    return "\n".join(lines)
