"""Must show 2 of the low-rank Fisher: a whole Newton direction on the 42 M shape against one PyTorch gradient.

    python -m bench.lowrank_cost all --out bench/results/cpu-lowrank-cost.json    every way below, one process each
    python -m bench.lowrank_cost gradient --samples 64                            one way, printed as JSON
    python -m bench.lowrank_cost direction --samples 64 --memory 2.5GB

"all" writes its file after each way and, started again, goes on with those that are missing there. A direction is
``F^-1 G^T 1`` with damping 1e-4; the error of an approximation is against the direction of the exact Gram, which
is kept in ``--work`` until the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from fastunlearn.microbench.harness import peak_here, write_json
from fastunlearn.microbench.shapes import make_batch, make_model

ROOT = Path(__file__).resolve().parents[1]
DAMPING = 1e-4
#: What "all" runs: name -> the way and its own options.
WAYS = {
    "gradient (MKL, as users have it)": ["gradient"],
    "gradient (oneDNN)": ["gradient", "--onednn"],
    "direction, 8GB": ["direction", "--memory", "8GB", "--truth", "write"],
    "direction, 3GB": ["direction", "--memory", "3GB", "--truth", "read"],
    "direction by layer, 8GB": ["direction", "--memory", "8GB", "--blocks", "layer"],
    "sketch, rank 128, 8GB": ["sketch", "--memory", "8GB", "--truth", "read"],
    "CG in sample space with that sketch, 8GB": ["cg", "--memory", "8GB", "--truth", "read"],
    "stored G, one block (part)": ["stored"],
    "stored G, blocks of 1000 (part)": ["stored", "--width", "1000"],
    "WoodFisher's recursion, blocks of 1000 (part)": ["woodfisher"],
}


def gradient(options) -> dict:
    """PyTorch's own gradient of the summed loss, in batches."""
    model, batch = _inputs(options)
    if options.onednn:
        torch.set_float32_matmul_precision("medium")  # oneDNN's products; exact float32 on a CPU without AMX
    seconds = []

    def run():
        start = time.perf_counter()
        model.zero_grad()
        for rows in range(0, options.samples, options.batch_size):
            some = {name: tensor[rows : rows + options.batch_size] for name, tensor in batch.items()}
            model(**some).loss.backward()
        seconds.append(time.perf_counter() - start)

    return {"peak_bytes": peak_here(run, "cpu"), "seconds": seconds[-1]}


def direction(options) -> dict:
    """Gram, factor, and one weighted backward pass."""
    import fastunlearn as fu

    model, batch = _inputs(options)
    found: dict = {}

    def run():
        start = time.perf_counter()
        fisher = fu.LowRankFisher(model, batch, DAMPING, memory=options.memory, blocks=options.blocks)
        found["gram and factor"] = time.perf_counter() - start
        found["step"] = fisher.solve_samples(torch.ones(options.samples), form="dict")
        found["seconds"] = time.perf_counter() - start

    return _measured(run, found, options)


def sketch(options) -> dict:
    """The Gram estimated from projected gradients, and one weighted backward pass."""
    from fastunlearn.solve import sketched_gram

    gradients, c = _gradients(options), torch.ones(options.samples, dtype=torch.float64)
    found: dict = {"rank": options.rank}

    def run():
        start = time.perf_counter()
        k = sketched_gram(gradients, options.rank)
        k.diagonal().add_(options.samples * DAMPING)
        found["step"] = gradients.weighted_gradient(options.samples * torch.linalg.solve(k, c))
        found["seconds"] = time.perf_counter() - start

    return _measured(run, found, options)


def cg(options) -> dict:
    """Conjugate gradients with K = G G^T as an operator, helped by the sketch, and one weighted backward pass."""
    from fastunlearn.solve import sketched_gram, solve_in_sample_space

    gradients, c = _gradients(options), torch.ones(options.samples, dtype=torch.float64)
    found: dict = {"rank": options.rank}

    def run():
        start = time.perf_counter()
        weights, how = solve_in_sample_space(
            gradients, c, DAMPING, tolerance=1e-4, max_iterations=options.iterations,
            gram=sketched_gram(gradients, options.rank),
        )  # fmt: skip
        found["step"] = gradients.weighted_gradient(weights)
        found["seconds"] = time.perf_counter() - start
        found.update(iterations=how.iterations, residual=how.residual, status=how.status)

    return _measured(run, found, options)


def stored(options) -> dict:
    """Woodbury with stored float32 G (random rows), on ``--weights`` of the weights: what storing costs per weight.
    Making the rows is not in the clock."""
    from fastunlearn.solve import ExplicitFisher, StoredGradients

    kept = StoredGradients(options.samples, options.weights, options.width or options.weights)
    kept._put(0, torch.randn(options.samples, options.weights), {})
    found: dict = {"weights": options.weights}

    def run():
        start = time.perf_counter()
        ExplicitFisher(kept, DAMPING).solve_samples(torch.ones(options.samples, dtype=torch.float64))
        found["seconds"] = time.perf_counter() - start

    return {"peak_bytes": peak_here(run, "cpu"), **found, "bytes of G": options.samples * options.weights * 4}


def woodfisher(options) -> dict:
    """The paper's recursion, as dense inverses of blocks of 1000, on ``--weights`` of the weights (random rows)."""
    rows = torch.randn(options.samples, options.weights)
    found: dict = {"weights": options.weights}

    def run():
        start = time.perf_counter()
        for part in rows.split(1000, 1):
            inverse = torch.eye(part.shape[1]) / DAMPING
            for row in part:
                pulled = inverse @ row
                inverse.addr_(pulled, pulled / (options.samples + row @ pulled), alpha=-1)
            inverse @ part.sum(0)
        found["seconds"] = time.perf_counter() - start

    return {"peak_bytes": peak_here(run, "cpu"), **found, "bytes of G": options.samples * options.weights * 4}


def _inputs(options):
    model = make_model("llama-42m", layers=options.layers)
    return model, make_batch(model, options.tokens, options.samples)


def _gradients(options):
    from fastunlearn.operators.sample_gradients import SampleGradients
    from fastunlearn.operators.samples import to_samples

    model, batch = _inputs(options)
    return SampleGradients(model, to_samples(batch), pad_token_id=0, memory=options.memory,
                           batch_size=options.batch_size)  # fmt: skip


def _measured(run, found: dict, options) -> dict:
    """Peak and facts of a run that leaves its ``step`` in ``found``, and its error where the exact one is known."""
    from safetensors.torch import load_file, save_file

    peak = peak_here(run, "cpu")
    step: dict[str, Tensor] = found.pop("step")
    found["norm"] = float(sum(t.double().square().sum() for t in step.values()) ** 0.5)
    truth = Path(options.work) / "direction.safetensors"
    if options.truth == "write":
        truth.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.reshape(tensor.shape).contiguous() for name, tensor in step.items()}, truth)
    elif options.truth == "read":
        exact = load_file(truth)
        pairs = [(step[name].double().view(exact[name].shape), exact[name].double()) for name in exact]
        apart, whole = (sum(float(t.square().sum()) for t in some) ** 0.5 for some in (
            [a - b for a, b in pairs], [b for _, b in pairs]))  # fmt: skip
        found["error"] = apart / whole
        found["cosine"] = sum(float((a * b).sum()) for a, b in pairs) / (whole * found["norm"])
    return {"peak_bytes": peak, **found}


def every(options) -> None:
    """Runs what is missing in ``options.out``; the first direction again where its answer is no longer there."""
    path = Path(options.out)
    settings = {"samples": options.samples, "tokens": options.tokens, "batch_size": options.batch_size,
                "layers": options.layers, "damping": DAMPING}  # fmt: skip
    shared = [x for n in ("samples", "tokens", "batch_size", "layers") for x in (f"--{n.replace('_', '-')}",
              str(settings[n]))]  # fmt: skip
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    cases = {c["way"]: c for c in record.get("cases", [])} if record.get("settings") == settings else {}
    truth = Path(options.work) / "direction.safetensors"
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    for name, own in WAYS.items():
        needed = any("read" in WAYS[other] and other not in cases for other in WAYS)
        if name in cases and not ("write" in own and needed and not truth.exists()):
            continue
        print(name, flush=True)
        command = [sys.executable, "-m", "bench.lowrank_cost", *own, *shared, "--work", options.work,
                   "--iterations", str(options.iterations), "--weights", str(options.weights)]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"{name} failed with {done.returncode}; what was measured so far is in {path}")
        cases[name] = {"way": name, **json.loads(done.stdout.strip().splitlines()[-1])}
        print(cases[name], flush=True)
        base = cases["gradient (MKL, as users have it)"]["seconds"]
        for case in cases.values():
            case["of one gradient"] = case["seconds"] / base
        write_json(path, "low-rank: a whole Newton direction", settings, [cases[n] for n in WAYS if n in cases])
    truth.unlink(missing_ok=True)


COMMANDS = {"gradient": gradient, "direction": direction, "sketch": sketch, "cg": cg, "stored": stored,
            "woodfisher": woodfisher}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("way", choices=(*COMMANDS, "all"))
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--memory", default="8GB")
    parser.add_argument("--blocks", default="model")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--onednn", action="store_true", help="gradient: products of oneDNN instead of MKL")
    parser.add_argument("--rank", type=int, default=128, help="of the sketch")
    parser.add_argument("--iterations", type=int, default=10, help="cg: at most so many")
    parser.add_argument("--weights", type=int, default=100_000, help="stored, woodfisher: so many of the weights")
    parser.add_argument("--width", type=int, help="stored: weights in a block")
    parser.add_argument("--truth", choices=("write", "read"), help="the exact direction: keep it, or compare with it")
    parser.add_argument("--work", default=str(Path(tempfile.gettempdir()) / "fastunlearn-lowrank-cost"))
    parser.add_argument("--out", default="bench/results/cpu-lowrank-cost.json", help="all: the file to go on with")
    options = parser.parse_args()
    if options.way == "all":
        return every(options)
    print(json.dumps(COMMANDS[options.way](options)))


if __name__ == "__main__":
    main()
