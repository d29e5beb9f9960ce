"""The Gram of a linear layer's per-sample gradients: our two ways against the ways of plain PyTorch.

    python -m bench.ghost_gram                    writes bench/results/cpu-ghost-gram.json
    python -m bench.ghost_gram --device cuda --out FOLDER

It also measures the speeds that fastunlearn/ops/ghost_gram/cost.py needs, and whether ``route="auto"`` picks the
faster way in every case.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import torch

from fastunlearn.microbench.harness import Way, compare, peak_bytes, peak_here, write_json
from fastunlearn.ops.ghost_gram import formed_gram, ghost_gram
from fastunlearn.ops.ghost_gram.cost import choose_route, formed_cost

GATE = 2e-5  # relative to float64; the inputs are float32
BASELINE = "torch: token products"
SIZES = {  # samples, tokens per sample, d_in, d_out
    "cpu": [(1024, 8, 128, 128), (1024, 8, 128, 344), (2048, 1, 512, 512), (256, 8, 512, 512), (128, 16, 512, 1536),
            (64, 32, 512, 512), (32, 64, 512, 512), (16, 128, 512, 1536), (64, 128, 256, 256)],
    "cuda": [(16384, 1, 1024, 1024), (512, 16, 1024, 1024), (512, 32, 1024, 4096), (128, 128, 1024, 1024),
             (256, 128, 512, 512)],
}  # fmt: skip


def tokens(case: dict, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    count = case["samples"] * case["length"]
    x = torch.randn(count, case["d_in"], generator=generator)
    g = torch.randn(count, case["d_out"], generator=generator)
    return x.to(device), g.to(device), torch.arange(0, count + 1, case["length"])


def token_products(x, g, samples: int) -> torch.Tensor:
    """Two token x token matrices, multiplied and summed by sample: the ghost way in plain PyTorch."""
    length = x.shape[0] // samples
    return ((x @ x.T).mul_(g @ g.T)).view(samples, length, samples, length).sum((1, 3))


def sample_gradients(x, g, samples: int) -> torch.Tensor:
    """Every sample's whole gradient at once, times itself."""
    rows = torch.bmm(g.view(samples, -1, g.shape[1]).transpose(1, 2), x.view(samples, -1, x.shape[1])).flatten(1)
    return rows @ rows.T


def ways(case: dict, device: str) -> list[Way]:
    x, g, offsets = tokens(case, device)
    samples = case["samples"]
    found = [
        Way("fastunlearn: ghost", functools.partial(ghost_gram, x, g, offsets)),
        Way(BASELINE, functools.partial(token_products, x, g, samples), ours=False),
    ]
    if samples * case["d_in"] * case["d_out"] * 4 <= 2**30:  # else minutes and gigabytes
        found += [
            Way("fastunlearn: formed", functools.partial(formed_gram, x, g, offsets)),
            Way("torch: sample gradients", functools.partial(sample_gradients, x, g, samples), ours=False),
        ]
    return found


def truth(case: dict, device: str) -> torch.Tensor:
    x, g, offsets = tokens(case, device)
    return ghost_gram(x.double(), g.double(), offsets, backend="reference")


def measure(case: dict, device: str, rounds: int) -> dict:
    found = ways(case, device)
    results = compare(found, truth(case, device), GATE, BASELINE, rounds=rounds, device=device)
    for way in found:
        result = results[way.name]
        if device == "cpu":
            result["peak_bytes"] = peak_bytes("bench.ghost_gram", case, way.name, device)
        else:  # the allocator says it here: no new process, whose start takes longer than all that is timed
            result["peak_bytes"] = peak_here(way.run, device) if "seconds" in result else None
    d_in, d_out, m = case["d_in"], case["d_out"], case["samples"]
    count = m * case["length"]
    route = choose_route(count, count, m, m, d_in, d_out, True, device)
    measured = {name: results.get(f"fastunlearn: {name}", {}).get("seconds") for name in ("ghost", "formed")}
    seconds = {name: value for name, value in measured.items() if value is not None}
    auto = {"route": route, "fastest": min(seconds, key=seconds.__getitem__, default=None), "of": len(seconds)}
    if seconds.get("ghost"):
        rate = count**2 * (d_in + d_out) / 2 / seconds["ghost"]
        auto["ghost_multiply_adds_per_second"] = rate
    if seconds.get("formed"):
        auto["formed_weighted_multiply_adds_per_second"] = (
            formed_cost(count, count, m, m, d_in, d_out, True, device) / seconds["formed"]
        )
    return {"case": case, "ways": results, "route": auto}


def refusal(result: dict) -> str:
    """Why a way has no time."""
    if "reason" in result:
        return f"failed: {result['reason']}"
    return "rejected: not finite" if result["error"] is None else f"rejected: error {result['error']:.0e}"


def report(done: dict) -> None:
    print(done["case"], "auto:", done["route"]["route"], "fastest:", done["route"]["fastest"])
    for name, result in done["ways"].items():
        if "seconds" not in result:
            print(f"  {name:26} {refusal(result)}")
            continue
        memory = "-" if result["peak_bytes"] is None else f"{result['peak_bytes'] / 2**20:8.1f} MiB"
        ratio = result.get("times_faster_than_baseline", float("nan"))
        print(f"  {name:26} {result['seconds'] * 1e3:9.2f} ms  {ratio:6.2f} x  {memory}  error {result['error']:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the JSON")
    options = parser.parse_args()
    cases: list[dict] = []
    settings = {"dtype": "float32", "rounds": options.rounds, "gate": GATE, "baseline": BASELINE}
    for samples, length, d_in, d_out in SIZES[options.device]:
        case = {"samples": samples, "length": length, "d_in": d_in, "d_out": d_out}
        cases.append(measure(case, options.device, options.rounds))
        report(cases[-1])
        write_json(options.out / f"{options.device}-ghost-gram.json", "ghost gram", settings, cases, options.device)
    if any(result["gate"] != "passed" for case in cases for result in case["ways"].values()):
        raise SystemExit("a result did not pass the gate: no time is reported for it")


if __name__ == "__main__":
    main()
