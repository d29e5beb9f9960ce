"""What the precision modes of the linear layers gain and lose: speed and error of each step, float32 in and out.

    python -m bench.linear_precision            writes bench/results/cpu-linear-precision.json

Also with the Hessian-vector product of a whole model ("llama-42m" of fastunlearn/microbench/shapes.py, 1 x 512 tokens),
whose error is relative to the same product in float64.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import torch

import fastunlearn as fu
from bench.linear import SHAPES, STEPS, own, problem, truth
from fastunlearn.microbench.gemm_peak import gemm_peak
from fastunlearn.microbench.harness import Way, compare, relative_error, write_json
from fastunlearn.microbench.shapes import make_batch, make_model, make_vector

MODES = ("float32", "bf16x3", "bf16")
GATE = 2e-2  # the loosest mode's; each error is reported


def within(mode: str, work) -> torch.Tensor:
    with fu.precision(mode):
        return work()


def steps(rounds: int) -> list[dict]:
    cases = []
    for shape in SHAPES:
        for step, units in STEPS.items():
            case, p = {"step": step, "shape": list(shape)}, problem(*shape)
            ways = [Way(mode, functools.partial(within, mode, functools.partial(own, step, p))) for mode in MODES]
            results = compare(ways, truth(case), GATE, "float32", rounds=rounds)
            for result in results.values():
                result["gflop_per_s"] = units * 2 * shape[0] * shape[1] * shape[2] / result["seconds"] / 1e9
            cases.append({"case": case, "ways": results})
            print(step, shape, {m: (round(r["gflop_per_s"]), f"{r['error']:.1e}") for m, r in results.items()})
    return cases


def whole(rounds: int) -> dict:
    model = make_model("llama-42m")
    batch, v = make_batch(model, 512), make_vector(model)
    wide = make_model("llama-42m", dtype=torch.float64)
    exact = fu.Hessian(wide, [batch]) @ v.double()
    del wide
    operator = fu.Hessian(model, [batch])
    ways = [Way(mode, functools.partial(within, mode, lambda: operator @ v)) for mode in MODES]
    results = compare(ways, exact, GATE, "float32", rounds=rounds)
    for mode, result in results.items():
        found = within(mode, lambda: operator @ v)
        result["error_in_norm"] = ((found.double() - exact).norm() / exact.norm()).item()
        result["largest_error"] = relative_error(found, exact)
        print("Hessian product", mode, result)
    return {"case": {"step": "Hessian product of llama-42m", "tokens": 512}, "ways": results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the JSON")
    options = parser.parse_args()
    settings = {"rounds": options.rounds, "gate": GATE, "gemm_peak_gflop_per_s": gemm_peak(),
                "gemm_peak_bfloat16_gflop_per_s": gemm_peak(torch.bfloat16)}  # fmt: skip
    cases = [*steps(options.rounds), whole(options.rounds)]
    write_json(options.out / "cpu-linear-precision.json", "precision modes of the linear layers", settings, cases)


if __name__ == "__main__":
    main()
