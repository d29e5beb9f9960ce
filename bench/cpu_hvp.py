"""Hessian- and Gauss-Newton-vector products of whole models on the CPU, ours and the peers', in one process.

    python -m bench.cpu_hvp                       every case, minutes; writes bench/results/cpu-hvp-<case>.json
    python -m bench.cpu_hvp hvp-512 ggn-512       some of them

Correct first: every result is held to float64 (double backward, where it fits into memory; else the dual pass in
float64, which the smaller case has held to double backward). At 8192 tokens neither can be had, and central differences
of two gradients, themselves inexact, stand in with a wide gate. Times are medians of rounds in turn, two
threads. Memory is the peak of one call in a process of its own, above imports, model and vector, less the result.
"""

from __future__ import annotations

import argparse
import functools
import os
from pathlib import Path

import torch

from bench import peers
from bench.gemm_peak import gemm_peak
from bench.harness import Way, compare, peak_bytes, write_json
from bench.shapes import make_batch, make_model, make_vector

RESULTS = Path(__file__).resolve().parent / "results"
OURS, GRADIENT = "fastunlearn", "PyTorch gradient, SDPA"
GATE = 1e-4  # relative to the largest entry; what is reached is in the JSON

#: kind: "hessian" or "ggn". precision: PyTorch's own setting, for the peers. units: multiplications by all weights.
CASES = {
    "hvp-512": {"kind": "hessian", "shape": "llama-42m", "tokens": 512, "precision": "highest"},
    "hvp-512-medium": {"kind": "hessian", "shape": "llama-42m", "tokens": 512, "precision": "medium"},
    "ggn-512": {"kind": "ggn", "shape": "llama-42m", "tokens": 512, "precision": "highest"},
    "hvp-2048": {"kind": "hessian", "shape": "llama-42m", "tokens": 2048, "precision": "highest"},
    "hvp-8192": {"kind": "hessian", "shape": "llama-42m", "tokens": 8192, "precision": "highest", "peers": False,
                 "gate": 1e-2, "rounds": 1},
    "gpt2-512": {"kind": "hessian", "shape": "gpt2-124m", "tokens": 512, "precision": "highest"},
    "qwen3-512": {"kind": "hessian", "shape": "qwen3-0.6b", "tokens": 512, "precision": "highest"},
    "gpt2-512-bf16": {"kind": "hessian", "shape": "gpt2-124m", "tokens": 512, "dtype": "bfloat16"},
    "qwen3-512-bf16": {"kind": "hessian", "shape": "qwen3-0.6b", "tokens": 512, "dtype": "bfloat16"},
}
UNITS = {"hessian": 8, "ggn": 5}


class Setting:
    """Models and inputs of one case, each made when first asked for, so that a way's memory is its own."""

    def __init__(self, case: dict):
        self.case = case
        self.dtype = getattr(torch, case.get("dtype", "float32"))

    @functools.cache  # noqa: B019  lives as long as the process
    def model(self, attention: str):
        return make_model(self.case["shape"], attention=attention, dtype=self.dtype)

    @functools.cached_property
    def batch(self):
        return make_batch(self.model("sdpa"), self.case["tokens"])

    @functools.cached_property
    def vector(self):
        return make_vector(self.model("sdpa"))

    def prepare(self, attention: str, precision: str) -> None:
        self.model(attention)
        self.batch, self.vector  # noqa: B018
        torch.set_float32_matmul_precision(precision)


def ours(setting: Setting) -> torch.Tensor:
    import fastunlearn as fu

    operator = fu.Hessian if setting.case["kind"] == "hessian" else fu.GGN
    return operator(setting.model("sdpa"), [setting.batch]) @ setting.vector


def ways(case: dict, _device: str = "cpu") -> list[Way]:
    setting, precision = Setting(case), case.get("precision", "highest")

    def peer(name: str, attention: str, product) -> Way:
        def run():
            torch.set_float32_matmul_precision(precision)
            try:
                return product(setting.model(attention), setting.batch, setting.vector)
            finally:
                torch.set_float32_matmul_precision("highest")

        return Way(name, run, functools.partial(setting.prepare, attention, precision), ours=False)

    found = [Way(OURS, functools.partial(ours, setting), functools.partial(setting.prepare, "sdpa", "highest"))]
    if case.get("peers", True):
        table = peers.HESSIAN if case["kind"] == "hessian" else peers.GGN
        found += [peer(name, attention, product) for name, (attention, product) in table.items()]
    return found


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


def measure(name: str, rounds: int) -> dict:
    case = CASES[name]
    rounds = case.get("rounds", rounds)
    name_of_truth, exact = truth(case)
    found = ways(case)
    gate = case.get("gate", 0.5 if case.get("dtype") == "bfloat16" else GATE)
    results = compare(found, exact.double(), gate, OURS, rounds=rounds)
    setting = Setting(case)
    yardstick = time_gradient(setting, case.get("precision", "highest"), rounds)
    size = setting.vector.numel() * setting.vector.element_size()
    for way in found:
        if results[way.name]["gate"] == "passed":
            results[way.name]["peak_bytes"] = max(0, peak_bytes("bench.cpu_hvp", case, way.name) - size)
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
    matrices = sum(p.numel() for n, p in setting.model("sdpa").named_parameters() if p.dim() > 1 and "embed" not in n)
    if setting.model("sdpa").config.tie_word_embeddings:
        matrices += setting.model("sdpa").get_input_embeddings().weight.numel()
    flop = 2 * UNITS[case["kind"]] * matrices * case["tokens"]
    peak = gemm_peak(setting.dtype)
    reached = flop / seconds / 1e9
    summary |= {"gflop_per_s": reached, "gemm_peak_gflop_per_s": peak, "share_of_gemm_peak": reached / peak}
    return {"case": {"name": name, **case, "truth": name_of_truth}, "results": results, GRADIENT: yardstick,
            "summary": summary}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.cases:
        case = measure(name, options.rounds)
        settings = {"threads": options.threads, "gate": GATE}
        write_json(options.out / f"cpu-{name}.json", "Products with the whole model, CPU", settings, [case])
        print(name, {k: round(v, 3) if isinstance(v, float) else v for k, v in case["summary"].items()}, flush=True)


if __name__ == "__main__":
    main()
