"""What the low-rank Fisher must show; each sub-command writes bench/results/cpu-lowrank-<name>.json.

    python -m bench.lowrank exact            every block kind against dense float64 inverses
    python -m bench.lowrank apply            streaming products with stored gradients against a plain copy
    python -m bench.lowrank switch           ghost or formed, by the cost model, against the better of both
    python -m bench.lowrank precondition     CG on a trained model's damped Gauss-Newton matrix, plain and helped
    python -m bench.lowrank approximations   CG in sample space, the sketch, stored gradients: time and error
    python -m bench.lowrank_cost all         a whole Newton direction on the 42 M shape (processes of their own)
    python -m bench.lowrank growth           time and memory as samples and tokens grow (processes of their own)
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import fastunlearn as fu
from bench import lowrank_growth
from bench.lowrank_ways import approximations, error
from fastunlearn.microbench.harness import write_json

SHAPES = [(64, 32, 256, 256), (64, 128, 256, 256), (256, 8, 256, 256), (256, 32, 256, 256), (1024, 4, 256, 256),
          (1024, 32, 128, 128), (4096, 1, 128, 128), (4096, 8, 64, 64), (64, 16, 512, 512), (16, 256, 256, 688)]
RESULTS = Path(__file__).parent / "results"


def seconds(run: Callable[[], object], rounds: int = 3) -> float:
    """Median wall time, after one call that is not counted."""
    run()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def tiny(width: int = 8, layers: int = 1, vocabulary: int = 37, positions: int = 64, dtype=torch.float64):
    """A GPT-2 from seed 0: float64 throughout where it is asked to be."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=vocabulary, n_embd=width, n_layer=layers, n_head=2, n_positions=positions,
                        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=2)  # fmt: skip
    config.use_cache = False
    return GPT2LMHeadModel(config).to(dtype).eval()


def tokens(samples: int, length: int, vocabulary: int, seed: int = 1) -> dict[str, Tensor]:
    ids = torch.randint(3, vocabulary, (samples, length), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "labels": ids.clone()}


def true_rows(model, batch) -> Tensor:
    """G (m, P) float64: one backward pass for each sample."""
    rows = []
    for ids in batch["input_ids"]:
        logits = model(input_ids=ids[None]).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum")
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    return torch.stack(rows).detach().double()


def refined(dense: Tensor, g: Tensor, owner: Tensor, damping: float, rows: Tensor | None, v: Tensor | None) -> Tensor:
    """``dense^-1 v``, or with ``rows`` ``dense^-1 g^T rows``, by the float64 factor of dense with residuals in 80-bit
    floats: a plain float64 solve is itself off by 1e-9 at small damping. ``owner`` (P,): the block of each weight."""
    import numpy as np

    wide, blocks = g.numpy().astype(np.longdouble), [np.flatnonzero((owner == b).numpy()) for b in owner.unique()]
    right = wide.T @ rows.numpy().astype(np.longdouble) if v is None else v.numpy().astype(np.longdouble)
    factor, x = torch.linalg.cholesky(dense), np.zeros(len(right), np.longdouble)
    for _ in range(4):
        left = right - np.longdouble(damping) * x
        for some in blocks:
            left[some] -= wide[:, some].T @ (wide[:, some] @ x[some]) / len(wide)
        step = torch.cholesky_solve(torch.from_numpy(left.astype(np.float64))[:, None], factor)
        x += step[:, 0].numpy().astype(np.longdouble)
    return torch.from_numpy(x.astype(np.float64))


def exact() -> list[dict]:
    wide = tiny()
    narrow = tiny(dtype=torch.float32)
    wide.load_state_dict(narrow.state_dict())
    batch = tokens(8, 9, 37)
    g, c = true_rows(wide, batch), torch.randn(8, generator=torch.Generator().manual_seed(3)).double()
    v = torch.randn(g.shape[1], generator=torch.Generator().manual_seed(4)).double()
    cases = []
    for blocks in ("model", "layer", "tensor", 64, 1000):
        for damping in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
            fisher = fu.LowRankFisher(wide, batch, damping, blocks=blocks)
            if isinstance(blocks, int):
                owner = torch.arange(g.shape[1]) // blocks
            else:
                each = [torch.full((p.numel(),), fisher.blocks.of[n]) for n, p in fisher.parameters.items()]
                owner = torch.cat(each)
            dense = damping * torch.eye(g.shape[1]).double() + g.T @ g / len(g)
            dense = torch.where(owner[:, None] == owner[None, :], dense, 0)
            small = fu.LowRankFisher(narrow, batch, damping, blocks=blocks)
            fine = fu.LowRankFisher(narrow, batch, damping, blocks=blocks, precision="float64")
            truth = refined(dense, g, owner, damping, c, None)
            cases.append({
                "blocks": blocks, "damping": damping,
                "float64 solve": error(fisher.solve(v), refined(dense, g, owner, damping, None, v)),
                "float64 push-through": error(fisher.solve_samples(c), truth),
                "float64 dense solve": error(torch.linalg.solve(dense, g.T @ c), truth),
                "float32 push-through": error(small.solve_samples(c), truth),
                "float32 weights, precision float64": error(fine.solve_samples(c), truth),
            })  # fmt: skip
            print(cases[-1])
    return cases


def in_turn(*runs: Callable[[], object], rounds: int = 15) -> list[float]:
    """Median wall times of calls that take turns, so that a change of the machine's speed meets all of them."""
    times = [[] for _ in runs]
    for _ in range(1 + rounds):
        for own, run in zip(times, runs, strict=True):
            start = time.perf_counter()
            run()
            own.append(time.perf_counter() - start)
    return [statistics.median(own[1:]) for own in times]


def apply() -> list[dict]:
    from fastunlearn.ops.low_rank_apply import combine, dot

    source = torch.randn(110 * 2**20)
    target = torch.empty_like(source)
    copy = 2 * source.numel() * 4 / seconds(lambda: target.copy_(source), 7) / 1e9
    cases = [{"copy, bytes read and written": copy}]
    for dtype in (torch.float32, torch.bfloat16, torch.int8):
        for blocks, rows, width in ((1, 512, 200_000), (200, 512, 1000), (1600, 512, 128), (3200, 512, 64)):
            g = torch.empty(blocks, rows, width, dtype=dtype)
            drawn = source[: g.numel()].view(g.shape)
            g.copy_(drawn.mul(20) if dtype == torch.int8 else drawn)
            del drawn
            scales = torch.ones(blocks, rows) if dtype == torch.int8 else None
            v, w = torch.randn(1, blocks, width), torch.randn(1, blocks, rows)
            size = g.numel() * g.element_size() / 1e9
            times = in_turn(
                lambda: target.copy_(source), lambda g=g, s=scales, v=v: dot(g, v, s),
                lambda g=g, s=scales, w=w: combine(g, w, s),
            )  # fmt: skip
            again, rates = 2 * source.numel() * 4 / times[0] / 1e9, [size / time for time in times[1:]]
            cases.append({
                "storage": str(dtype), "blocks": blocks, "rows": rows, "width": width, "copy GB/s": again,
                "dot GB/s": rates[0], "combine GB/s": rates[1], "dot of copy": rates[0] / again,
                "combine of copy": rates[1] / again,
            })  # fmt: skip
            print(cases[-1])
            del g
    return cases


def switch() -> list[dict]:
    from fastunlearn.ops.ghost_gram import formed_gram, ghost_gram
    from fastunlearn.ops.ghost_gram.cost import choose_route

    cases = []
    for samples, length, d_in, d_out in SHAPES:
        n = samples * length
        generator = torch.Generator().manual_seed(0)
        x, g = (torch.randn(n, d, generator=generator) for d in (d_in, d_out))
        offsets = torch.arange(0, n + 1, length)
        times = {
            "ghost": seconds(lambda x=x, g=g, o=offsets: ghost_gram(x, g, o)),
            "formed": seconds(lambda x=x, g=g, o=offsets: formed_gram(x, g, o)),
        }
        route = choose_route(n, n, samples, samples, d_in, d_out, True, "cpu")
        found = {"samples": samples, "tokens": length, "d_in": d_in, "d_out": d_out, **times, "chosen": route,
                 "chosen over best": times[route] / min(times.values())}  # fmt: skip
        found["ghost rate"] = n * n * (d_in + d_out) / 2 / times["ghost"]
        found["formed rate"] = d_in * d_out * (n + samples**2 / 2) / times["formed"]
        cases.append(found)
        print(found)
    return cases


def trained(steps: int = 150):
    """A small model taught a pattern: each token is a fixed function of the two before it, nine times in ten."""
    model = tiny(width=32, layers=2, vocabulary=61, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    table = torch.randint(3, 61, (61, 61), generator=generator)
    ids = torch.randint(3, 61, (512, 24), generator=generator)
    for t in range(2, 24):
        kept = torch.rand(512, generator=generator) < 0.9
        ids[:, t] = torch.where(kept, table[ids[:, t - 2] % 8, ids[:, t - 1] % 8], ids[:, t])
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(steps):
        some = ids[torch.arange(step * 64, step * 64 + 64) % 512]
        loss = model(input_ids=some, labels=some).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model, ids, loss.item()


def precondition() -> list[dict]:
    """On 32 sequences. The low-rank Fisher's labels are drawn many times for each: its mean is the matrix itself."""
    from fastunlearn.solve import cg, nystrom

    model, ids, loss = trained()
    some = {"input_ids": ids[:32], "labels": ids[:32]}
    b = fu.gradient(model, some)
    ggn, cases = fu.GGN(model, some, reduction="samples"), []
    for damping in (1.0, 1e-1):
        plain = cg(ggn, b, damping=damping, tolerance=1e-4, max_iterations=600)
        found = {"damping": damping, "loss": loss, "parameters": ggn.shape[0], "plain": outcome(plain)}
        helpers = {
            f"sampled low-rank, {n} draws": lambda d=damping, n=n: fu.LowRankFisher(
                model, [some] * n, d, kind="sampled") for n in (32, 64)
        } | {
            "nystrom, rank 64": lambda d=damping: nystrom(ggn, 64, damping=d),
            "nystrom, rank 256": lambda d=damping: nystrom(ggn, 256, damping=d),
        }
        for name, make in helpers.items():
            helped = cg(ggn, b, damping=damping, tolerance=1e-4, max_iterations=600, preconditioner=make())
            found[name] = {**outcome(helped), "of plain": helped.iterations / plain.iterations}
        cases.append(found)
        print(found, flush=True)
    return cases


def outcome(found) -> dict:
    return {"status": found.status, "iterations": found.iterations, "products": found.products,
            "residual": found.residual}  # fmt: skip


COMMANDS = {"exact": exact, "apply": apply, "switch": switch, "precondition": precondition,
            "approximations": approximations}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=[*COMMANDS, "growth"])
    what = parser.parse_args().what
    if what == "growth":
        return lowrank_growth.main([])
    cases = COMMANDS[what]()
    write_json(RESULTS / f"cpu-lowrank-{what}.json", f"low-rank: {what}", {}, cases)


if __name__ == "__main__":
    main()
