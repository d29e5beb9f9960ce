"""Must show 2 of the low-rank Fisher: a whole Newton direction on the 42 M shape against one PyTorch gradient.

    python -m bench.lowrank_cost gradient --samples 64           seconds of one ordinary gradient
    python -m bench.lowrank_cost direction --samples 64 --memory 1GB

It is a part of bench/lowrank.py with processes of its own, so that memory peaks are each way's alone.
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from fastunlearn.microbench.harness import peak_here
from fastunlearn.microbench.shapes import make_batch, make_model


def gradient(model, batch, batch_size: int) -> dict:
    """PyTorch's own gradient of the summed loss, in batches."""
    seconds = []

    def run():
        start = time.perf_counter()
        model.zero_grad()
        for rows in range(0, len(batch["labels"]), batch_size):
            some = {name: tensor[rows : rows + batch_size] for name, tensor in batch.items()}
            model(**some).loss.backward()
        seconds.append(time.perf_counter() - start)

    return {"peak_bytes": peak_here(run, "cpu"), "seconds": seconds[-1]}


def direction(model, batch, batch_size: int, memory: str, blocks: str, phases: bool) -> dict:
    """F^-1 G^T 1: Gram, factor, and one weighted backward pass."""
    import fastunlearn as fu

    seconds: dict[str, float] = {}

    def run():
        start = time.perf_counter()
        fisher = fu.LowRankFisher(model, batch, 1e-4, memory=memory, blocks=blocks, batch_size=batch_size)
        seconds["gram and factor"] = time.perf_counter() - start
        step = fisher.solve_samples(torch.ones(len(batch["labels"])), form="dict")
        seconds["whole"] = time.perf_counter() - start
        seconds["norm"] = float(sum(t.double().square().sum() for t in step.values()) ** 0.5)

    if phases:
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU]) as prof:
            run()
        print(prof.key_averages().table(sort_by="self_cpu_time_total", row_limit=22, max_name_column_width=40))
    peak = peak_here(run, "cpu")
    return {"peak_bytes": peak, **seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("way", choices=("gradient", "direction"))
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--memory", default="8GB")
    parser.add_argument("--blocks", default="model")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    model = make_model("llama-42m", layers=options.layers)
    batch = make_batch(model, options.tokens, options.samples)
    if options.way == "gradient":
        found = gradient(model, batch, options.batch_size)
    else:
        found = direction(model, batch, options.batch_size, options.memory, options.blocks, options.profile)
    print(json.dumps({**vars(options), **found}))


if __name__ == "__main__":
    main()
