"""Those of the tests that need a GPU (their marker is ``gpu``), where pytest is there.

    python -m bench.device.gpu_tests --out FOLDER     writes tests.json, also where tests fail

Exit status: 0; FAILED (status.py) where some fail; 1 where none ran.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as tree
from pathlib import Path

from bench.device.status import FAILED

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("tests/ops", "tests/test_resources.py")
COUNTS = ("tests", "failures", "errors", "skipped")


def counted(report: Path) -> dict[str, int]:
    """From pytest's own report."""
    suites = list(tree.parse(report).getroot().iter("testsuite"))
    found = {name: sum(int(suite.get(name, 0)) for suite in suites) for name in COUNTS}
    return found | {"on_gpu": found["tests"] - found["skipped"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of tests.json")
    out = parser.parse_args().out
    needed = [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]
    if needed:
        print(f"not installed: {', '.join(needed)}; the tests are left out")
        raise SystemExit(0)
    report = out / "tests.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", *PLACES, "-m", "gpu", "-q", "-p", "no:cacheprovider",
               f"--junitxml={report}"]  # fmt: skip
    if importlib.util.find_spec("xdist") is not None:
        command += ["-n", str(min(8, os.cpu_count() or 1))]
    status = subprocess.run(command, cwd=ROOT).returncode
    if not report.exists():
        raise SystemExit(f"pytest ended with {status} and no report")
    counts = counted(report)
    (out / "tests.json").write_text(json.dumps(counts, indent=1), encoding="utf-8")
    print(counts)
    if not counts["on_gpu"]:
        raise SystemExit("no test ran on the GPU")
    raise SystemExit(FAILED if status else 0)


if __name__ == "__main__":
    main()
