"""A part of bench/lowrank.py: exact and approximate ways to one direction, their times and errors."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

import fastunlearn as fu

__all__ = ["approximations", "error"]


def error(got: Tensor, truth: Tensor) -> float:
    return ((got.double() - truth.double()).norm() / truth.double().norm()).item()


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
