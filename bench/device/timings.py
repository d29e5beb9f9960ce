"""Times of the GPU kernels beside what else computes the same: what ``bench/device.sh`` runs for its timed parts.

    python -m bench.device.timings --out FOLDER [--only attention ...]
    python -m bench.device.timings --out FOLDER --device cpu --toy     a dry run on tiny shapes; its times mean nothing

Writes <gpu>-<subject>.json, such as h200-attention.json, anew after every way, so that a process that is killed leaves
what it had measured; ``whole`` in its settings says whether it came to its end. Medians of CUDA events after warm-up;
peak memory is the allocator's, above what was there before. A way that runs out of memory or raises is recorded with
its message, and so is a case that cannot be set up. Rates are shares of what a plain matrix product (or copy) reached
in the same run, not of a data sheet. Whether results are right is ``bench.device.check``'s to say; here errors stand
beside PyTorch's own where float64 fits.

Exit status: 0; FAILED (status.py) where a case could not be set up; CUT where the GPU was lost, and with it what came
after.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

from bench.device import attention, newton, output_layer, pointwise, sample_space, whole_model
from bench.device.measure import Bench, described, prefix
from bench.device.status import CUT, FAILED
from fastunlearn.microbench.harness import record
from fastunlearn.storage.files import write_json

#: A case says what it is about and has ``ways``, which its function fills in, yielding after each of them.
Case = tuple[dict, Callable[[dict], Iterator[None]]]
SUBJECTS: dict[str, Callable[[Bench], Iterable[Case]]] = {
    "attention": attention.attention, "cross-entropy": output_layer.cross_entropy, "ghost-gram": sample_space.gram,
    "explicit-rows": sample_space.rows, "weighted-gradient": sample_space.weighted, "systems": sample_space.systems,
    "pointwise": pointwise.pointwise, "accuracy": whole_model.accuracy, "hvp": whole_model.hvp,
    "hvp-short": whole_model.short_hvp, "hvp-large": whole_model.large_hvp, "newton": newton.newton,
}  # fmt: skip


def strict(value):
    """Without NaN and infinity, which strict JSON has not: None in their place."""
    if isinstance(value, dict):
        return {name: strict(one) for name, one in value.items()}
    if isinstance(value, list):
        return [strict(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def time_subject(bench: Bench, subject: str, out: Path) -> int:
    """Measures all cases of ``subject``; the exit status."""
    torch.manual_seed(0)
    cases: list[dict] = []
    path = out / f"{prefix(bench.device)}-{subject}.json"
    found = record(f"GPU: {subject}", {}, cases, bench.device)  # asks the GPU what it is while that answers

    def write(whole: bool) -> None:
        found["settings"] = {"whole": whole, "dtype": "bfloat16", "rounds": bench.rounds, "toy": bench.toy,
                             **bench.rates()}  # fmt: skip
        write_json(path, strict(found))

    for case, fill in SUBJECTS[subject](bench):
        if not any(one is case for one in cases):
            cases.append(case)
        failed = None
        try:
            for _ in fill(case):
                write(False)
        except Exception as failure:
            failed = described(failure)
        if failed is not None:
            case["failed"] = failed
        bench.tidy()
        write(False)
        show(case)
        if bench.lost:
            return CUT
    write(True)
    return FAILED if any("failed" in case for case in cases) else 0


def show(case: dict) -> None:
    print({k: v for k, v in case.items() if k != "ways"})
    for name, result in case["ways"].items():
        shown = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in result.items()}
        print("   ", name, shown, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--toy", action="store_true", help="tiny shapes")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", choices=SUBJECTS, action="append")
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON")
    options = parser.parse_args()
    bench = Bench(options.device, options.toy, options.rounds)
    status = 0
    for subject in options.only or SUBJECTS:
        status = max(status, time_subject(bench, subject, options.out))
        if bench.lost:
            break
    raise SystemExit(status)


if __name__ == "__main__":
    main()
