"""How long ``import fastunlearn`` takes beyond PyTorch's own import, in fresh processes.

    python -m bench.import_time              # writes bench/results/import-time.json

The clock runs inside of each process: first ``import torch``, then what is measured. Aimed at: at most 0.3 s more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from fastunlearn.microbench.harness import write_json

ROOT = Path(__file__).resolve().parents[1]
TITLE = "Import time"
CASES = {
    "import fastunlearn": "import fastunlearn",
    "the operators": "import fastunlearn as fu; fu.Hessian, fu.GGN, fu.Fisher, fu.gradient, fu.per_sample_dot",
    "the solvers": "import fastunlearn as fu; fu.LowRankFisher, fu.KeptFisher",
    "unlearn": "import fastunlearn as fu; fu.unlearn",
}
_CLOCK = """
import json, time
a = time.perf_counter(); import torch
b = time.perf_counter(); {statement}
c = time.perf_counter()
import sys
print(json.dumps([b - a, c - b, "transformers" in sys.modules, "triton" in sys.modules]))
"""


def once(statement: str) -> list:
    """[seconds of torch, seconds of the statement after it, whether transformers came, whether Triton came]."""
    done = subprocess.run(
        [sys.executable, "-c", _CLOCK.format(statement=statement)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def measure(rounds: int) -> list[dict]:
    """Medians and least values of every case, taken in turn; the first round only warms the disk's cache."""
    taken: dict[str, list] = {name: [] for name in CASES}
    for turn in range(rounds + 1):
        for name, statement in CASES.items():
            found = once(statement)
            if turn:
                taken[name].append(found)
    cases = []
    for name, rows in taken.items():
        torch_seconds, more = ([row[i] for row in rows] for i in (0, 1))
        cases.append({
            "case": name, "statement": CASES[name], "rounds": rounds,
            "torch_seconds": statistics.median(torch_seconds),
            "seconds": statistics.median(more), "seconds_least": min(more),
            "imports_transformers": rows[0][2], "imports_triton": rows[0][3],
        })  # fmt: skip
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="processes for each case (default: 7)")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "import-time.json")
    args = parser.parse_args()
    cases = measure(args.rounds)
    for case in cases:
        print(f"{case['case']}: {case['seconds']:.3f} s beyond torch's {case['torch_seconds']:.2f} s")
    write_json(args.out, TITLE, {"rounds": args.rounds}, cases)


if __name__ == "__main__":
    main()
