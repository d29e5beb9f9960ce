"""How the cost of a Hessian-vector product grows: with tokens, layers, vectors at once, threads.

    python -m bench.cpu_scaling [tokens layers vectors threads]     writes bench/results/cpu-scaling-<axis>.json

Seconds are medians of rounds; memory is the peak of one call in a process of its own, above imports, model and
vectors, less the result. The cases "one_by_one" time eight single products, all results kept, in turn with the eight at
once; "ratio" is the median of what the latter take of the former, round by round. The model is "llama-42m" of
fastunlearn/microbench/shapes.py.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from fastunlearn.microbench.harness import Way, peak_bytes, write_json
from fastunlearn.microbench.shapes import make_batch, make_model, make_vector

RESULTS = Path(__file__).resolve().parent / "results"
BASE = {"tokens": 512, "layers": 8, "vectors": 1, "threads": 2, "kind": "Hessian"}
AXES = {
    "tokens": [{"tokens": n} for n in (128, 256, 512, 1024, 2048)],
    "layers": [{"layers": n} for n in (1, 2, 4, 8, 16)],
    "vectors": [{"vectors": n, "kind": kind} for kind in ("Hessian", "GGN") for n in (1, 2, 4, 8)]
    + [{"vectors": 8, "one_by_one": True}, {"vectors": 8, "one_by_one": True, "kind": "GGN"}],
    "threads": [{"threads": n} for n in (1, 2)],
}


def ways(case: dict, _device: str = "cpu") -> list[Way]:
    made: dict = {}

    def prepare() -> None:
        torch.set_num_threads(case["threads"])
        made["model"] = make_model("llama-42m", layers=case["layers"])
        made["batch"] = make_batch(made["model"], case["tokens"])
        made["vectors"] = make_vector(made["model"], case["vectors"] if case["vectors"] > 1 else None)

    def operator():
        import fastunlearn as fu

        return getattr(fu, case["kind"])(made["model"], [made["batch"]])

    def run() -> torch.Tensor:
        return operator() @ made["vectors"]

    def singles() -> list[torch.Tensor]:
        one = operator()
        return [one @ vector for vector in made["columns"]]

    def split() -> None:
        made["columns"] = [column.contiguous() for column in made["vectors"].T]

    return [Way("fastunlearn", run, prepare), Way("one by one", singles, split)]


def clock(way: Way) -> float:
    start = time.perf_counter()
    way.run()
    return time.perf_counter() - start


def in_turn(case: dict, rounds: int) -> dict:
    at_once, singles = ways(case)
    for way in (at_once, singles):
        way.prepare()
        way.run()
    pairs = [(clock(at_once), clock(singles)) for _ in range(rounds)]
    seconds = [statistics.median(column) for column in zip(*pairs, strict=True)]
    found = {"at_once_seconds": seconds[0], "seconds": seconds[1], "ratio": statistics.median(a / b for a, b in pairs)}
    return {"case": case, "rounds": rounds, **found}


def measure(case: dict, rounds: int) -> dict:
    if case.get("one_by_one"):
        return in_turn(case, rounds)
    way = ways(case)[0]
    way.prepare()
    size = way.run().nbytes
    seconds = []
    for _ in range(rounds):
        seconds.append(clock(way))
    memory = peak_bytes("bench.cpu_scaling", case, way.name) - size
    return {"case": case, "seconds": statistics.median(seconds), "rounds": rounds, "peak_bytes": max(0, memory)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("axes", nargs="*", default=list(AXES), choices=list(AXES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    for axis in options.axes:
        cases = []
        for change in AXES[axis]:
            cases.append(measure({**BASE, **change}, options.rounds))
            print(axis, change, {k: round(v, 3) for k, v in cases[-1].items() if k != "case"}, flush=True)
        torch.set_num_threads(BASE["threads"])
        write_json(options.out / f"cpu-scaling-{axis}.json", f"Growth of a product with {axis}, CPU", {}, cases)


if __name__ == "__main__":
    main()
