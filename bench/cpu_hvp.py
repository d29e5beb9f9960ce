"""Hessian- and Gauss-Newton-vector products of whole models on the CPU, ours and the peers', in one process.

    python -m bench.cpu_hvp                       every case, minutes; writes bench/results/cpu-hvp-<case>.json
    python -m bench.cpu_hvp hvp-512 ggn-512       some of them

Correct first: every result is held to float64 (double backward, where it fits into memory; else the dual pass in
float64, which the smaller case has held to double backward). At 8192 tokens neither can be had, and central differences
of two gradients, themselves inexact, stand in with a wide gate. Times are medians of rounds in turn, two
threads. Memory is the peak of one call in a process of its own, above imports, model and vector, less the result.
Cases marked "apart" have their ways in processes of their own for times too, one after another, as they do not fit
beside each other; a peer that needs more than --memory is reported so.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from fastunlearn.microbench import peers
from fastunlearn.microbench.apart import compare_apart
from fastunlearn.microbench.gemm_peak import gemm_peak
from fastunlearn.microbench.harness import OURS, compare, peak_bytes, write_json
from fastunlearn.microbench.product_cases import GRADIENT, UNITS, Setting, ours, ways, weights_in_products

RESULTS = Path(__file__).resolve().parent / "results"
GATE = 1e-4  # relative to the largest entry; what is reached is in the JSON

#: kind: "hessian" or "ggn". precision: PyTorch's own setting, for the peers. units: multiplications by all weights.
CASES = {
    "hvp-512": {"kind": "hessian", "shape": "llama-42m", "tokens": 512, "precision": "highest"},
    "hvp-512-medium": {"kind": "hessian", "shape": "llama-42m", "tokens": 512, "precision": "medium"},
    "ggn-512": {"kind": "ggn", "shape": "llama-42m", "tokens": 512, "precision": "highest"},
    "hvp-2048": {"kind": "hessian", "shape": "llama-42m", "tokens": 2048, "precision": "highest", "apart": True},
    "hvp-8192": {"kind": "hessian", "shape": "llama-42m", "tokens": 8192, "precision": "highest", "peers": False,
                 "gate": 1e-2, "rounds": 1},
    "gpt2-512": {"kind": "hessian", "shape": "gpt2-124m", "tokens": 512, "precision": "highest", "apart": True},
    "qwen3-512": {"kind": "hessian", "shape": "qwen3-0.6b", "tokens": 512, "precision": "highest", "apart": True},
    "gpt2-512-bf16": {"kind": "hessian", "shape": "gpt2-124m", "tokens": 512, "dtype": "bfloat16", "apart": True},
    "qwen3-512-bf16": {"kind": "hessian", "shape": "qwen3-0.6b", "tokens": 512, "dtype": "bfloat16", "apart": True},
}


def truth(case: dict) -> tuple[str, torch.Tensor]:
    """What the results are held to: its name, and the product (float64 but for 8192 tokens)."""
    torch.set_float32_matmul_precision("highest")
    if case["tokens"] > 2048:
        rough = Setting(case)
        return "central differences", peers.central_differences(rough.model("sdpa"), rough.batch, rough.vector)
    exact = Setting({**case, "dtype": "float64"})
    if case["tokens"] <= 512 and case["shape"] == "llama-42m":
        name = "double backward" if case["kind"] == "hessian" else "curvlinops"
        attention, product = (peers.HESSIAN if case["kind"] == "hessian" else peers.GGN)[name]
        return f"{name}, float64", product(exact.model(attention), exact.batch, exact.vector)
    return "dual pass, float64", ours(exact)


def time_gradient(setting: Setting, precision: str, rounds: int) -> dict:
    """The yardstick: PyTorch's own gradient, timed beside the products."""
    import statistics
    import time

    torch.set_float32_matmul_precision(precision)
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        peers.gradient(setting.model("sdpa"), setting.batch, setting.vector)
        seconds.append(time.perf_counter() - start)
    torch.set_float32_matmul_precision("highest")
    return {"seconds": statistics.median(seconds[1:]), "rounds": rounds}


def measure(name: str, rounds: int, memory: int) -> dict:
    case = CASES[name]
    rounds = case.get("rounds", rounds)
    name_of_truth, exact = truth(case)
    Setting.model.cache_clear()  # the float64 model and vector, whose room the ways need
    memory = min(memory, int(0.9 * free_memory()))
    gate = case.get("gate", 0.5 if case.get("dtype") == "bfloat16" else GATE)
    found, here = ways(case), "fastunlearn.microbench.product_cases"
    if case.get("apart"):
        names = [way.name for way in found]
        results = compare_apart(here, case, names, exact.double(), gate, rounds=rounds, memory=memory)
    else:
        results = compare(found, exact.double(), gate, OURS, rounds=rounds)
    setting = Setting(case)
    yardstick = time_gradient(setting, case.get("precision", "highest"), rounds)
    size = setting.vector.numel() * setting.vector.element_size()
    for name_, result in results.items():
        if result["gate"] == "passed":
            peak = result["peak_bytes"] if case.get("apart") else peak_bytes(here, case, name_)
            result["peak_bytes"] = max(0, peak - size)
    seconds = results[OURS]["seconds"]
    exact_peers = {n: r for n, r in results.items() if n != OURS and r["gate"] == "passed"}
    summary = {"seconds_over_gradient": seconds / yardstick["seconds"]}
    if exact_peers:
        fastest = min(exact_peers, key=lambda n: exact_peers[n]["seconds"])
        summary |= {
            "fastest_peer": fastest,
            "times_faster_than_fastest_peer": exact_peers[fastest]["seconds"] / seconds,
            "memory_over_fastest_peer": results[OURS]["peak_bytes"] / exact_peers[fastest]["peak_bytes"],
        }
    flop = 2 * UNITS[case["kind"]] * weights_in_products(setting.model("sdpa")) * case["tokens"]
    peak = gemm_peak(setting.dtype)
    reached = flop / seconds / 1e9
    summary |= {"gflop_per_s": reached, "gemm_peak_gflop_per_s": peak, "share_of_gemm_peak": reached / peak}
    return {"case": {"name": name, **case, "truth": name_of_truth}, "results": results, GRADIENT: yardstick,
            "summary": summary}


def free_memory() -> int:
    """Bytes that new processes can have (Linux)."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--memory", type=float, default=0.85 * free_memory() / 2**30,
                        help="GiB that a way of a case marked apart may have")  # fmt: skip
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.cases:
        case = measure(name, options.rounds, int(options.memory * 2**30))
        settings = {"threads": options.threads, "gate": GATE}
        write_json(options.out / f"cpu-{name}.json", "Products with the whole model, CPU", settings, [case])
        print(name, {k: round(v, 3) if isinstance(v, float) else v for k, v in case["summary"].items()}, flush=True)


if __name__ == "__main__":
    main()
