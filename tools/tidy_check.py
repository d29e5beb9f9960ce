"""Whether clang-tidy finds anything in csrc/cpu: ``python tools/tidy_check.py [FILE ...]`` (the checks: .clang-tidy).

Every source is read as ``setup.py`` compiles it: the drivers once, those of ``isa/`` once per instruction set, because
parts of these are behind ``#if``. The CUDA sources are left out: clang-tidy reads them only where CUDA's headers are.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CPU = ROOT / "csrc" / "cpu"
COMMON = ["-std=c++17", "-fopenmp", f"-I{CPU}"]
#: Name, bytes of a vector, flags: ``ISAS`` of setup.py (a test compares).
ISAS = [("portable", 16, [])]
if platform.machine().lower() in ("x86_64", "amd64"):
    ISAS += [
        ("avx2", 32, ["-mavx2", "-mfma"]),
        ("avx512", 64, ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma", "-mprefer-vector-width=512"]),
    ]
_FINDING = re.compile(r"^(.+?):(\d+):\d+: (?:warning|error): (.*)$")


def sources() -> list[Path]:
    return sorted(CPU.rglob("*.cpp"))


def flags_of(path: Path) -> list[list[str]]:
    """One list of flags for each time that ``setup.py`` compiles the source."""
    if path.parent.name == "isa":
        return [[*COMMON, f"-DFU_ISA={name}", f"-DFU_BYTES={width}", *machine] for name, width, machine in ISAS]
    import pybind11

    headers = [pybind11.get_include(), sysconfig.get_path("include")]
    have = [f"-DFU_HAVE_{name.upper()}=1" for name, _, _ in ISAS[1:]]
    return [[*COMMON, *have, *(f"-isystem{folder}" for folder in headers), *omp_header()]]


def omp_header() -> list[str]:
    """The folder of GCC's <omp.h>, after clang's own headers, because the package clang-tidy brings none."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        return []
    found = subprocess.run([compiler, "-print-file-name=include/omp.h"], capture_output=True, text=True).stdout.strip()
    return ["-idirafter", str(Path(found).parent)] if Path(found).is_absolute() else []


def tidy() -> str:
    beside = Path(sys.executable).parent / "clang-tidy"  # that of this environment, before any other
    found = str(beside) if beside.exists() else shutil.which("clang-tidy")
    if found is None:
        raise SystemExit("clang-tidy was not found: pip install clang-tidy")
    return found


def findings(path: Path, flags: list[str]) -> list[str]:
    """``file:line: what [check]`` of one reading; an error of the reading itself is a finding too."""
    command = [tidy(), "--quiet", str(path), "--", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = []
    for line in done.stdout.splitlines():
        if match := _FINDING.match(line):
            place = Path(os.path.normpath(ROOT / match[1]))
            inside = place.is_relative_to(ROOT)
            found.append(f"{place.relative_to(ROOT) if inside else place}:{match[2]}: {match[3]}")
    if done.returncode != 0 and not found:
        found.append(f"{path.relative_to(ROOT)}: clang-tidy failed: {done.stderr.strip()[-500:]}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="sources below csrc/cpu; without any, all of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    every = [path.resolve() for path in options.files] or sources()
    jobs = [(path, flags) for path in every for flags in flags_of(path)]
    with ThreadPoolExecutor(options.jobs) as pool:
        lists = list(pool.map(lambda job: findings(*job), jobs))
    found = sorted({line for one in lists for line in one})  # once, whoever includes the header
    for line in found:
        print(line)
    if not found:
        print(f"csrc/cpu: {len(every)} sources, read {len(jobs)} times, no findings")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
