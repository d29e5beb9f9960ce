"""What ``fu.accelerate`` does for other tools: Hessian-vector products before and after, in one process.

    python -m bench.accelerate                 writes bench/results/cpu-accelerate.json

"eager" is the model with eager attention, which is what tools need without us; "SDPA" with PyTorch's fused attention
as it comes; "accelerated" the latter under ``fu.accelerate``. Results are held to float64 double backward of the eager
model. Memory is the peak of one call in a process of its own, above imports, model and vector.
"""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path

import torch

import fastunlearn as fu
from fastunlearn.microbench import peers
from fastunlearn.microbench.harness import Way, compare, peak_bytes, write_json
from fastunlearn.microbench.shapes import make_batch, make_model, make_vector

GATE = 1e-4
KINDS = ("eager", "SDPA", "accelerated")
TOOLS = {
    "double backward": peers.double_backward,
    "jvp of grad": peers.jvp_of_grad,
    "grad of jvp": peers.forward_then_reverse,
    "curvlinops": peers.HESSIAN["curvlinops"][1],
    "hessian-eigenthings": peers.HESSIAN["hessian-eigenthings"][1],
    "pyhessian": peers.HESSIAN["pyhessian"][1],
}


@functools.cache
def setting(attention: str, tokens: int):
    model = make_model("llama-42m", attention=attention)
    return model, make_batch(model, tokens), make_vector(model)


def run(tool: str, kind: str, tokens: int):
    model, batch, vector = setting("eager" if kind == "eager" else "sdpa", tokens)
    model.zero_grad(set_to_none=True)  # PyHessian adds to .grad, and a call of it that failed leaves one behind
    if kind != "accelerated":
        return TOOLS[tool](model, batch, vector)
    with fu.accelerate(model):
        return TOOLS[tool](model, batch, vector)


def ways(case: dict, device: str = "cpu") -> list[Way]:
    return [
        Way(
            kind,
            functools.partial(run, case["tool"], kind, case["tokens"]),
            functools.partial(setting, "eager" if kind == "eager" else "sdpa", case["tokens"]),
            kind == "accelerated",
        )
        for kind in KINDS
    ]


def measure(case: dict, truth: torch.Tensor, rounds: int, memory: bool) -> dict:
    found = compare(ways(case), truth, GATE, "eager", rounds=rounds)
    for name, result in found.items():
        if result["gate"] == "passed" and memory:
            result["peak_bytes"] = peak_bytes("bench.accelerate", case, name)
        print(case["tool"], name, {k: v for k, v in result.items() if k != "rounds"}, flush=True)
    return case | {"ways": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=list(TOOLS), help="the others' results stay")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cpu-accelerate.json")
    options = parser.parse_args()
    kept = json.loads(options.out.read_text(encoding="utf-8"))["cases"] if options.out.exists() else []
    model, batch, vector = setting("eager", options.tokens)
    truth = peers.double_backward(model.double(), batch, vector.double())
    model.float()
    settings = {"shape": "llama-42m", "tokens": options.tokens}
    cases = [measure(settings | {"tool": tool}, truth, options.rounds, not options.no_memory) for tool in options.tools]
    kept = [one for one in kept if one["tool"] not in options.tools]
    order = list(TOOLS)
    title = "Hessian tools of others with and without fu.accelerate"
    cases = sorted(kept + cases, key=lambda one: order.index(one["tool"]))
    write_json(options.out, title, {"dtype": "float32", "gate": GATE}, cases)


if __name__ == "__main__":
    main()
