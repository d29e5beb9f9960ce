"""What the low-rank Fisher must show; each sub-command writes bench/results/cpu-lowrank-<name>.json.

    python -m bench.lowrank exact            every block kind against dense float64 inverses
    python -m bench.lowrank apply            streaming products with stored gradients against a plain copy
    python -m bench.lowrank switch           ghost or formed, by the cost model, against the better of both
    python -m bench.lowrank precondition     CG on a trained model's damped Gauss-Newton matrix, plain and helped
    python -m bench.lowrank approximations   CG in sample space, the sketch, stored gradients: time and error
    python -m bench.lowrank_cost             a whole Newton direction on the 42 M shape (processes of their own)
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


def error(got: Tensor, truth: Tensor) -> float:
    return ((got.double() - truth.double()).norm() / truth.double().norm()).item()


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
            truth = torch.linalg.solve(dense, g.T @ c)
            cases.append({
                "blocks": blocks, "damping": damping,
                "float64 solve": error(fisher.solve(v), torch.linalg.solve(dense, v)),
                "float64 push-through": error(fisher.solve_samples(c), truth),
                "float32 push-through": error(small.solve_samples(c), truth),
            })  # fmt: skip
            print(cases[-1])
    return cases


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
            again = 2 * source.numel() * 4 / seconds(lambda: target.copy_(source), 5) / 1e9  # beside each case
            rates = [size / seconds(lambda f=f, x=x, g=g, s=scales: f(g, x, s), 7) for f, x in ((dot, v), (combine, w))]
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
    """On 32 sequences. The low-rank Fisher's labels are drawn 32 times for each: its mean is the matrix itself."""
    from fastunlearn.solve import cg, nystrom

    model, ids, loss = trained()
    some = {"input_ids": ids[:32], "labels": ids[:32]}
    b = fu.gradient(model, some)
    ggn, cases = fu.GGN(model, some, reduction="samples"), []
    for damping in (1.0, 1e-1):
        plain = cg(ggn, b, damping=damping, tolerance=1e-4, max_iterations=600)
        found = {"damping": damping, "loss": loss, "parameters": ggn.shape[0], "plain": outcome(plain)}
        helpers = {
            "sampled low-rank, 32 draws": lambda d=damping: fu.LowRankFisher(model, [some] * 32, d, kind="sampled"),
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


def approximations() -> list[dict]:
    """On 64 samples of 64 tokens of a narrower Llama (the stored G of the whole shape would be 86 GB)."""
    from fastunlearn.microbench.shapes import make_batch, make_model
    from fastunlearn.operators.sample_gradients import SampleGradients
    from fastunlearn.operators.samples import to_samples
    from fastunlearn.solve import ExplicitFisher, StoredGradients, sketched_gram, solve_in_sample_space

    model = make_model("llama-42m", layers=1)
    for p in [model.lm_head.weight, model.model.embed_tokens.weight]:
        p.requires_grad_(False)  # 3.2 M weights stay
    batch = make_batch(model, 64, 64)
    damping, c = 1e-2, torch.ones(64, dtype=torch.float64)
    cases = []

    def note(name: str, run: Callable[[], Tensor], truth: Tensor | None = None) -> Tensor:
        start = time.perf_counter()
        got = run()
        cases.append({"way": name, "seconds": time.perf_counter() - start,
                      "error": 0.0 if truth is None else error(got, truth)})  # fmt: skip
        print(cases[-1])
        return got

    def gradient() -> Tensor:
        chosen = [p for p in model.parameters() if p.requires_grad]
        return torch.cat([g.flatten() for g in torch.autograd.grad(model(**batch).loss, chosen)])

    gradient()
    note("one PyTorch gradient", gradient)
    truth = note("sample space, exact", lambda: fu.LowRankFisher(model, batch, damping, memory="4GB").solve_samples(c))
    gradients = SampleGradients(model, to_samples(batch), pad_token_id=0, memory="4GB")

    def flat(w: Tensor) -> Tensor:
        return torch.cat([t.flatten() for t in gradients.weighted_gradient(w).values()])

    note("CG in sample space, 1e-4", lambda: flat(solve_in_sample_space(gradients, c, damping)[0]), truth)
    for rank in (32, 128):
        def sketch(rank=rank) -> Tensor:
            k = sketched_gram(gradients, rank)
            k.diagonal().add_(64 * damping)
            return flat(64 * torch.linalg.solve(k, c))

        note(f"sketch, rank {rank}", sketch, truth)
        note(f"CG in sample space with the sketch, rank {rank}", lambda rank=rank: flat(
            solve_in_sample_space(gradients, c, damping, gram=sketched_gram(gradients, rank))[0]), truth)
    size = sum(p.numel() for p in gradients.parameters.values())
    note("stored G, one block (Woodbury)", lambda: ExplicitFisher(
        StoredGradients.of(gradients, size), damping).solve_samples(c), truth)
    note("stored G, blocks of 1000 (another matrix: error is the blocks')", lambda: ExplicitFisher(
        StoredGradients.of(gradients, 1000), damping).solve_samples(c), truth)
    rows = gradients.dense()[:, :200_000].float()

    def woodfisher() -> Tensor:
        v, out = (rows.T @ c.float()).split(1000), []
        for part, own in zip(rows.split(1000, 1), v, strict=True):
            inverse = torch.eye(part.shape[1]) / damping
            for row in part:
                pulled = inverse @ row
                inverse -= torch.outer(pulled, pulled) / (64 + row @ pulled)
            out.append(inverse @ own)
        return torch.cat(out)

    stored = StoredGradients(64, rows.shape[1], 1000)
    stored._put(0, rows, {})
    same = note("blocks of 1000 over the first 200 000 weights, stored G", lambda: ExplicitFisher(
        stored, damping).solve_samples(c))
    note("blocks of 1000 over the first 200 000 weights, WoodFisher's recursion", woodfisher, same)
    return cases


COMMANDS = {"exact": exact, "apply": apply, "switch": switch, "precondition": precondition,
            "approximations": approximations}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=COMMANDS)
    what = parser.parse_args().what
    cases = COMMANDS[what]()
    write_json(RESULTS / f"cpu-lowrank-{what}.json", f"low-rank: {what}", {}, cases)


if __name__ == "__main__":
    main()
