"""A whole Newton direction with the low-rank Fisher, beside the gradient of the same samples."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bench.device.measure import Bench
from bench.device.whole_model import build
from fastunlearn.microbench.shapes import make_batch
from fastunlearn.solve import LowRankFisher

DAMPING = 1e-4
MEMORY = "40GB"  # for factors of gradients and tiles of them


def newton(bench: Bench) -> list:
    """512 samples of 256 tokens, Llama 3.2 1B, a block for each layer: Gram, factor, and one weighted backward pass."""
    name, samples, tokens, rows = ("toy", 6, 8, 3) if bench.toy else ("llama-3.2-1b", 512, 256, 16)

    def fill(case: dict) -> Iterator[None]:
        model = build(bench, name, tokens)
        batch = make_batch(model, tokens, samples)
        ones = torch.ones(samples, device=bench.device)
        parts = [{key: value[start : start + rows] for key, value in batch.items()}
                 for start in range(0, samples, rows)]  # fmt: skip

        def direction():
            fisher = LowRankFisher(model, batch, DAMPING, blocks="layer", memory=MEMORY)
            return fisher.solve_samples(ones, form="dict")

        def gradient():  # as its users add it up: in the weights' dtype, without a sum of ours beside it
            model.zero_grad()
            for part in parts:
                model(**part).loss.backward()

        ways = case["ways"]
        ways["gradient, sdpa"] = bench.measure(gradient)
        yield
        model.zero_grad()
        ways["fastunlearn"] = bench.measure(direction)
        if all("seconds" in result for result in ways.values()):
            ways["fastunlearn"]["gradients"] = ways["fastunlearn"]["seconds"] / ways["gradient, sdpa"]["seconds"]
        yield

    about = {"model": name, "samples": samples, "tokens": tokens, "blocks": "layer", "memory": MEMORY}
    return [({**about, "ways": {}}, fill)]
