"""The dual pass of a linear layer: our matrix products against PyTorch's two libraries, MKL and oneDNN.

    python -m bench.linear                      writes bench/results/cpu-linear.json

Each step is compared with the same step written in plain PyTorch on either library: what fastunlearn/ops/linear
chooses rests on this table.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from fastunlearn.microbench.gemm_peak import gemm_peak
from fastunlearn.microbench.harness import Way, compare, peak_bytes, write_json
from fastunlearn.ops import linear

GATE = 1e-5  # relative to float64
OURS, MKL, ONEDNN = "fastunlearn", "torch: MKL", "torch: oneDNN"
STEPS = {"dual_forward": 3, "dual_backward": 3, "weight_product": 2}  # multiplications by the weight
SHAPES = [(512, 512, 512), (512, 512, 1536), (512, 1536, 512), (2048, 512, 1536), (512, 768, 3072), (512, 512, 32000)]


def problem(rows: int, width: int, height: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    return {"x": normal(rows, width), "xt": normal(1, rows, width), "weight": normal(height, width),
            "weight_t": normal(1, height, width), "g": normal(rows, height), "h": normal(1, rows, height),
            "out": torch.zeros(1, height, width)}  # fmt: skip


def own(step: str, p: dict[str, Tensor], backend: str | None = None) -> Tensor:
    if step == "dual_forward":
        return linear.dual_forward(p["x"], p["xt"], p["weight"], p["weight_t"], backend=backend)[1]
    if step == "dual_backward":
        return linear.dual_backward(p["weight"], p["weight_t"], p["g"], p["h"], backend=backend)[1]
    return linear.weight_product(p["x"], p["xt"], p["g"], p["h"], p["out"].zero_(), backend=backend)


def plain(step: str, multiply: Callable[[Tensor, Tensor], Tensor], p: dict[str, Tensor]) -> Tensor:
    """The step with ``multiply(a, b) = a @ b.T`` of one library; everything that the step returns is computed."""
    x, xt, weight, weight_t, g, h = p["x"], p["xt"][0], p["weight"], p["weight_t"][0], p["g"], p["h"][0]
    if step == "dual_forward":
        multiply(x, weight)
        return multiply(xt, weight).add_(multiply(x, weight_t))[None]
    if step == "dual_backward":
        multiply(g, weight.T)
        return multiply(h, weight.T).add_(multiply(g, weight_t.T))[None]
    out = p["out"].zero_()
    out[0] += multiply(h.T, x.T)
    out[0] += multiply(g.T, xt.T)
    return out


def by_onednn(a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


def ways(case: dict, device: str = "cpu") -> list[Way]:
    p, step = problem(*case["shape"]), case["step"]
    found = [Way(OURS, functools.partial(own, step, p)),
             Way(MKL, functools.partial(plain, step, torch.nn.functional.linear, p))]  # fmt: skip
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        found.append(Way(ONEDNN, functools.partial(plain, step, by_onednn, p)))
    return found


def truth(case: dict) -> Tensor:
    return own(case["step"], {name: value.double() for name, value in problem(*case["shape"]).items()}, "reference")


def measure(case: dict, rounds: int, peak: float) -> dict:
    results = compare(ways(case), truth(case), GATE, MKL, rounds=rounds)
    rows, width, height = case["shape"]
    for name, result in results.items():
        result["peak_bytes"] = peak_bytes("bench.linear", case, name)
        if "seconds" in result:
            rate = STEPS[case["step"]] * 2 * rows * width * height / result["seconds"] / 1e9
            result |= {"gflop_per_s": rate, "share_of_gemm_peak": rate / peak}
    return {"case": case, "ways": results}


def report(done: dict) -> None:
    rates = ", ".join(f"{name} {r['gflop_per_s']:.0f}" if "seconds" in r else f"{name} rejected ({r['error']:.1e})"
                      for name, r in done["ways"].items())  # fmt: skip
    print(f"{done['case']['step']:15} {done['case']['shape']!s:18} GFLOP/s: {rates}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the JSON")
    options = parser.parse_args()
    peak, cases = gemm_peak(), []
    for shape in SHAPES:
        for step in STEPS:
            cases.append(measure({"step": step, "shape": list(shape)}, options.rounds, peak))
            report(cases[-1])
    settings = {"dtype": "float32", "rounds": options.rounds, "gate": GATE, "gemm_peak_gflop_per_s": peak}
    write_json(options.out / "cpu-linear.json", "linear", settings, cases)
    if any(way["gate"] != "passed" for case in cases for way in case["ways"].values()):
        raise SystemExit("a result did not pass the gate: no time is reported for it")


if __name__ == "__main__":
    main()
