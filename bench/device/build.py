"""Builds the CUDA extension in place, for the GPU that is here alone: no install, no index.

    python -m bench.device.build --out FOLDER     writes info.json

The part for the CPU is built anew where it was built before, and else left out: nothing that runs on a GPU uses it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

__all__ = ["is_built"]

ROOT = Path(__file__).resolve().parents[2]
STAMP = ROOT / "runs" / "built.txt"  # of which source


def source() -> str:
    """What tells one state of the CUDA source from another."""
    found = hashlib.sha256()
    for path in (ROOT / "setup.py", *sorted((ROOT / "csrc" / "cuda").glob("*"))):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def is_built() -> bool:
    """Whether the extension is there for this interpreter, from the source as it is."""
    there = any((ROOT / "fastunlearn" / f"_cuda{end}").exists() for end in importlib.machinery.EXTENSION_SUFFIXES)
    return there and STAMP.exists() and STAMP.read_text(encoding="utf-8") == source()


def switches(capability: tuple[int, int], with_cpu: bool) -> dict[str, str]:
    """The environment of setup.py. ``a``: instructions of that architecture alone, as Hopper's for matrices."""
    major, minor = capability
    return {
        "FASTUNLEARN_CUDA": "1", "FASTUNLEARN_CPU": "1" if with_cpu else "0",
        "FASTUNLEARN_CUDA_ARCHS": f"{major}{minor}{'a' if major >= 9 else ''}",
    }  # fmt: skip


def show(out: Path) -> list[str]:
    """Writes what there is now; the backends of a GPU that are not live."""
    from fastunlearn.info import info, info_text

    state = info()
    print(info_text())
    out.mkdir(parents=True, exist_ok=True)
    (out / "info.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    return [name for name in ("cuda", "triton") if not state["backends"][name]["live"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of info.json")
    parser.add_argument("--show", action="store_true", help="build nothing")
    options = parser.parse_args()
    if options.show:
        missing = show(options.out)
        raise SystemExit(f"not live: {', '.join(missing)}" if missing else 0)
    import torch

    with_cpu = importlib.util.find_spec("fastunlearn._cpu") is not None
    environment = {**os.environ, **switches(torch.cuda.get_device_capability(), with_cpu)}
    subprocess.run([sys.executable, "setup.py", "build_ext", "--inplace"], cwd=ROOT, env=environment, check=True)
    STAMP.parent.mkdir(exist_ok=True)
    STAMP.write_text(source(), encoding="utf-8")
    # In a new process: this one has looked for the extension before it was there.
    again = [sys.executable, "-m", "bench.device.build", "--show", "--out", str(options.out)]
    raise SystemExit(subprocess.run(again, cwd=ROOT).returncode)


if __name__ == "__main__":
    main()
