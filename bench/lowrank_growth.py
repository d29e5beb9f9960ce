"""Must show 3 of the low-rank Fisher: time and memory of one direction as the samples and their tokens grow.

    python -m bench.lowrank_growth                  samples 64..4096, tokens 32..1024
    python -m bench.lowrank_growth --point 64 32    one of them, printed as JSON

On a narrow Llama (two layers of width 128, vocabulary 512). Each point has a process of its own; the file is written
after each, and a run that is started again goes on with those that are missing. Beside each measurement stands what the
cost model says: multiply-adds over speeds that are measured first, in the same process, on shapes of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from fastunlearn.microbench.harness import peak_here, write_json

ROOT = Path(__file__).resolve().parents[1]
POINTS = [(m, 32) for m in (64, 128, 256, 512, 1024, 2048, 4096)] + [(64, t) for t in (64, 128, 256, 512, 1024)]
WIDTH, INNER, LAYERS, HEADS, VOCABULARY = 128, 344, 2, 2, 512
DAMPING = 1e-3


def make_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=1024,
    )  # fmt: skip
    config.use_cache = False
    return LlamaForCausalLM(config).eval()


def rate(work: float, run) -> float:
    """Multiply-adds in a second: the best of three calls after one."""
    run()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return work / min(times)


def speeds() -> dict[str, float]:
    """Of the ghost kernel, of the model's products, and of the float64 Cholesky factor, on shapes of their own."""
    from fastunlearn.operators.gemm import nt
    from fastunlearn.ops.ghost_gram import ghost_gram

    x, g = torch.randn(2048, WIDTH), torch.randn(2048, INNER)
    a, b, k = torch.randn(2048, WIDTH), torch.randn(INNER, WIDTH), torch.randn(512, 512).double()
    k = k @ k.T + torch.eye(512).double()
    offsets = torch.arange(0, 2049, 32)
    return {
        "ghost": rate(2048**2 * (WIDTH + INNER) / 2, lambda: ghost_gram(x, g, offsets)),
        "products": rate(2048 * WIDTH * INNER, lambda: nt(a, b)),
        "cholesky": rate(512**3 / 6, lambda: torch.linalg.cholesky(k)),
    }


def predicted_seconds(m: int, tokens: int, rates: dict[str, float], walked: bool) -> float:
    """The cost model: capture, Grams by the cheaper way, factor, and the weighted gradient."""
    from fastunlearn.ops.ghost_gram.cost import formed_cost, ghost_cost

    n = m * tokens
    shapes = [(WIDTH, WIDTH)] * 4 * LAYERS + [(WIDTH, INNER)] * 2 * LAYERS + [(INNER, WIDTH)] * LAYERS
    shapes.append((WIDTH, VOCABULARY))
    grams = sum(
        min(ghost_cost(n, n, a, b, True), formed_cost(n, n, m, m, a, b, True, "cpu")) for a, b in shapes
    )
    weights, attention = sum(a * b for a, b in shapes), 2 * tokens * WIDTH * LAYERS
    # Forward and backward for activations once, with a walk the forward twice; then from kept factors one product with
    # every weight, else a forward and a whole backward.
    units = 6 if walked else 3
    passes = n * (units * weights + (3.5 if not walked else 8) * attention)
    return grams / rates["ghost"] + passes / rates["products"] + m**3 / 6 / rates["cholesky"]


def point(m: int, tokens: int, memory: str) -> dict:
    import fastunlearn as fu
    from fastunlearn.microbench.shapes import make_batch
    from fastunlearn.operators.budget import plan_bytes

    model = make_model()
    batch, rates = make_batch(model, tokens, m), speeds()
    seconds: dict[str, float] = {}
    kept: list = []

    def run():
        start = time.perf_counter()
        fisher = fu.LowRankFisher(model, batch, DAMPING, memory=memory)
        seconds["gram and factor"] = time.perf_counter() - start
        fisher.solve_samples(torch.ones(m))
        seconds["seconds"] = time.perf_counter() - start
        kept.append(fisher)

    small = {name: rows[:2] for name, rows in batch.items()}
    fu.LowRankFisher(model, small, DAMPING, memory=memory).solve_samples(torch.ones(2))  # loads what is loaded once
    peak = peak_here(run, "cpu")
    gradients = kept[0]._fisher.gradients
    predicted = predicted_seconds(m, tokens, rates, not gradients.keeps_factors)
    return {
        "samples": m, "tokens": tokens, **seconds, "peak_bytes": peak, "predicted seconds": predicted,
        "of predicted": seconds["seconds"] / predicted, "kept factors": gradients.keeps_factors,
        "predicted bytes": plan_bytes(gradients), "rates": rates,
    }  # fmt: skip


def every(options) -> None:
    path = Path(options.out)
    settings = {"memory": options.memory, "damping": DAMPING, "width": WIDTH, "layers": LAYERS}
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    done = {(c["samples"], c["tokens"]): c for c in record.get("cases", [])}
    done = done if record.get("settings") == settings else {}
    wanted = [(m, t) for m, t in POINTS if m <= options.most_samples and t <= options.most_tokens]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    for m, t in wanted:
        if (m, t) in done:
            continue
        command = [sys.executable, "-m", "bench.lowrank_growth", "--point", str(m), str(t), "--memory", options.memory]
        answer = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        if answer.returncode != 0:
            sys.exit(f"{m} samples of {t} tokens failed with {answer.returncode}; {path} has those before")
        done[m, t] = json.loads(answer.stdout.strip().splitlines()[-1])
        print(done[m, t], flush=True)
        write_json(path, "low-rank: growth", settings, [done[p] for p in wanted if p in done])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--point", nargs=2, type=int, metavar=("SAMPLES", "TOKENS"))
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--most-samples", type=int, default=4096)
    parser.add_argument("--most-tokens", type=int, default=1024)
    parser.add_argument("--out", default="bench/results/cpu-lowrank-growth.json")
    options = parser.parse_args(arguments)
    if options.point:
        print(json.dumps(point(*options.point, options.memory)))
    else:
        every(options)


if __name__ == "__main__":
    main()
