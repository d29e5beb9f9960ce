"""Whether C++ and CUDA code is in the style of .clang-format: ``python tools/format_check.py [--write] [FILE ...]``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("csrc", "tests/emulated_cuda")


def sources() -> list[Path]:
    kinds = ("*.cpp", "*.h", "*.cu")
    return sorted(p for folder in FOLDERS for kind in kinds for p in (ROOT / folder).rglob(kind))


def formatted(path: Path) -> str:
    beside = Path(sys.executable).parent / "clang-format"  # that of this environment, before any other
    command = [str(beside) if beside.exists() else "clang-format", "--style=file", str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--write", action="store_true", help="rewrite what differs")
    options = parser.parse_args()
    every = [path.resolve() for path in options.files] or sources()
    wrong = []
    for path in every:
        name = path.relative_to(ROOT).as_posix()
        found = formatted(path)
        if found != path.read_text(encoding="utf-8"):
            wrong.append(name)
            if options.write:
                path.write_text(found, encoding="utf-8")
    done = "rewritten" if options.write else "not in the style of .clang-format"
    for name in wrong:
        print(f"{name}: {done}")
    if not wrong:
        print(f"{len(every)} files in style")
    return 1 if wrong and not options.write else 0


if __name__ == "__main__":
    raise SystemExit(main())
