"""Influence scores against retraining: ours, kronfluence's EK-FAC and TRAK's, on one small model.

    python -m bench.influence            writes bench/results/influence.json and the table of docs/analysis.md

Truth: the model is trained anew on random halves of its training set, from the same initial weights. The *linear
datamodelling score* (Park et al. 2023, arXiv 2303.14186) of a method is the rank correlation, over these halves, of a
query's loss with minus the sum of the scores of the records that were kept; it is averaged over queries, with a
bootstrap interval over the halves. A second training of each half, in another order, gives the score of the truth
itself: no method can be expected above it.

All get the same trained model. EK-FAC, ours and kronfluence's, is on the linear layers with the same labels and the
same damping: 1e-8, which is kronfluence's default, or a tenth of the mean eigenvalue of each layer; ours is besides on
all weights. TRAK gets one checkpoint (its authors use many) and 64 projected dimensions, fewer than records.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import json
import re
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import fastunlearn as fu
from bench.influence_peers import kronfluence_scores, trak_scores
from fastunlearn.microbench.harness import write_json
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.operators.samples import to_samples
from fastunlearn.storage.files import write_tensors

ROOT = Path(__file__).resolve().parents[1]
OUT, PAGE = ROOT / "bench" / "results" / "influence.json", ROOT / "docs" / "analysis.md"
VOCABULARY, LENGTH, TOPICS, EACH, QUERIES = 32, 12, 4, 24, 24
DECAY, STEPS, BATCH, RATE = 1e-1, 150, 24, 3e-3
DAMPINGS = {1e-8: "1e-8", None: "a tenth of the mean"}


def sentences(seed: int) -> tuple[Tensor, Tensor]:
    """Training rows (96, 12) and queries (24, 12): each topic is a random successor for every token, and one step in
    five goes astray, so that a query says most about the records of its topic."""
    generator = torch.Generator().manual_seed(seed)
    successors = torch.stack([torch.randperm(VOCABULARY, generator=generator) for _ in range(TOPICS)])

    def rows(topics: Tensor) -> Tensor:
        found = [torch.randint(VOCABULARY, topics.shape, generator=generator)]
        for _ in range(LENGTH - 1):
            stray = torch.rand(topics.shape, generator=generator) < 0.2
            random = torch.randint(VOCABULARY, topics.shape, generator=generator)
            found.append(torch.where(stray, random, successors[topics, found[-1]]))
        return torch.stack(found, 1)

    train = rows(torch.arange(TOPICS).repeat_interleave(EACH))
    return train, rows(torch.arange(QUERIES) % TOPICS)


def make() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=LENGTH, attn_implementation="eager", use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def train(rows: Tensor, seed: int) -> nn.Module:
    """From the same weights each time; ``seed`` is that of the order."""
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, STEPS)
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(STEPS):
        if len(order) < BATCH:
            order = torch.cat([order, torch.randperm(len(rows), generator=generator)])
        some, order = rows[order[:BATCH]], order[BATCH:]
        optimizer.zero_grad()
        model(input_ids=some, labels=some).loss.backward()
        optimizer.step()
        schedule.step()
    return model


@torch.no_grad()
def losses(model: nn.Module, rows: Tensor) -> Tensor:
    """Of each row, the sum over its targets."""
    logits = model(input_ids=rows).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none").view(len(rows), -1).sum(1)


def ranks(x: Tensor) -> Tensor:
    return x.argsort(0).argsort(0).double()


def correlation(predicted: Tensor, found: Tensor) -> Tensor:
    """Spearman's, over the first axis, for each column."""
    return torch.stack([torch.corrcoef(torch.stack([a, b]))[0, 1]
                        for a, b in zip(ranks(predicted).T, ranks(found).T, strict=True)])  # fmt: skip


def score(predicted: Tensor, found: Tensor, resamples: int = 500) -> dict:
    """Mean over queries and its 95 % interval over the halves (rows of both)."""
    generator = torch.Generator().manual_seed(0)
    predicted = predicted / predicted.std(0)
    means = []
    for _ in range(resamples):
        some = torch.randint(len(found), (len(found),), generator=generator)
        # a half drawn twice would tie with itself: break ties by a trifle of noise, the same for both
        noise = 1e-9 * torch.rand(len(some), 1, generator=generator)
        means.append(correlation(predicted[some] + noise, found[some] + noise).mean())
    low, high = torch.stack(means).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return {"lds": correlation(predicted, found).mean().item(), "low": low, "high": high}


def our_scores(
    model: nn.Module, rows: Tensor, queries: Tensor, folder: str, *, kind: str, blocks: str, share: float
) -> Tensor:
    """``share``: of the mean of F's m largest eigenvalues, as damping."""
    batch, asked = ({"input_ids": x, "labels": x} for x in (rows, queries))
    own = SampleGradients(model, to_samples(batch), pad_token_id=0)
    mean = sum(float(t.sum()) for t in own.weighted_squares(torch.ones(len(own)) / len(own)).values()) / len(own)
    return fu.influence(model, batch, asked, damping=share * mean, kind=kind, blocks=blocks, seed=1).scores


def kronecker_scores(
    model: nn.Module, rows: Tensor, queries: Tensor, folder: str, *, curvature: str, kind: str, damping: float | None,
    linear: bool,
) -> Tensor:  # fmt: skip
    """``linear``: of the linear layers alone, as kronfluence has them."""
    batch, asked = ({"input_ids": x, "labels": x} for x in (rows, queries))
    layers = [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return fu.influence(
        model, batch, asked, damping=damping, kind=kind, curvature=curvature, params=layers if linear else None, seed=1
    ).scores


def dot_products(model: nn.Module, rows: Tensor, queries: Tensor, folder: str) -> Tensor:
    """No curvature: F a multiple of the identity."""
    batch, asked = ({"input_ids": x, "labels": x} for x in (rows, queries))
    return fu.influence(model, batch, asked, damping=1e12).scores


def methods() -> dict:
    found: dict = {
        f"fastunlearn, {kind}, blocks={blocks!r}, damping {share:g}": functools.partial(
            our_scores, kind=kind, blocks=blocks, share=share
        )
        for kind in ("empirical", "sampled") for blocks in ("model", "tensor") for share in (0.001, 0.1)
    }  # fmt: skip
    peer = importlib.util.find_spec("kronfluence")
    for kind, (damping, words) in itertools.product(("sampled", "empirical"), DAMPINGS.items()):
        shared = {"kind": kind, "damping": damping}
        for name, curvature in (("K-FAC", "kfac"), ("EK-FAC", "ekfac")):
            for linear, layers in ((False, "all weights"), (True, "linear layers")):
                found[f"fastunlearn, {name}, {kind}, {layers}, damping {words}"] = functools.partial(
                    kronecker_scores, curvature=curvature, linear=linear, **shared
                )
        if peer:
            found[f"kronfluence 1.0, EK-FAC, {kind}, linear layers, damping {words}"] = functools.partial(
                kronfluence_scores, **shared
            )
    found["gradient dot products"] = dot_products
    if importlib.util.find_spec("trak"):
        found["TRAK (traker 0.3), one checkpoint"] = trak_scores
    return found


def retrained(rows: Tensor, queries: Tensor, kept: Tensor, cache: Path | None) -> tuple[Tensor, Tensor]:
    """The queries' losses after training on each half, in two orders; (halves, queries) float64 each. ``cache``: a
    safetensors file that holds them from an earlier run of the same halves, or will."""
    if cache is not None and cache.exists():
        held = load_file(cache)
        if torch.equal(held["kept"], kept):
            return held["first"], held["second"]
    first, second = (
        torch.stack([losses(train(rows[m.bool()], order), queries) for m in kept]).double() for order in (0, 1)
    )
    if cache is not None:
        write_tensors(cache, {"kept": kept, "first": first, "second": second}, {}, overwrite=True)
    return first, second


def run(halves: int, seed: int, cache: Path | None = None) -> list[dict]:
    rows, queries = sentences(seed)
    model = train(rows, 0)
    generator = torch.Generator().manual_seed(seed + 1)
    kept = torch.stack([
        torch.zeros(len(rows)).index_fill_(0, torch.randperm(len(rows), generator=generator)[: len(rows) // 2], 1.0)
        for _ in range(halves)
    ])  # fmt: skip
    found, again = retrained(rows, queries, kept, cache)
    own = {"name": "the truth itself, trained again", **score(again, found)}
    truth = (found + again) / 2
    done = [own]
    print(own, flush=True)
    for name, method in methods().items():
        with tempfile.TemporaryDirectory() as folder:
            scores = method(train(rows, 0), rows, queries, folder=folder)
        done.append({"name": name, **score(-(kept.double() @ scores.double().T), truth)})
        print(done[-1], flush=True)
    facts = {"weights": sum(p.numel() for p in model.parameters()), "loss": losses(model, rows).mean().item()}
    return [{"case": {"halves": halves, "seed": seed, **facts}, "methods": done}]


def table(record: dict) -> str:
    """As Markdown, with the figures of every method."""
    case = record["cases"][0]
    lines = ["| Scores | LDS (95 % interval) |", "| :-- | --: |"]
    for one in case["methods"]:
        lines.append(f"| {one['name']} | {one['lds']:.2f} ({one['low']:.2f} to {one['high']:.2f}) |")
    about = (
        f"{case['case']['weights']:,} weights, {TOPICS * EACH} training records, {QUERIES} queries, "
        f"{case['case']['halves']} random halves trained twice each; {record['date']}."
    )
    return "\n".join([*lines, "", about])


def write_table(record: dict, page: Path = PAGE) -> None:
    """Between the marks of the page."""
    text = page.read_text(encoding="utf-8")
    marks = r"(<!-- influence:begin -->\n).*?(\n<!-- influence:end -->)"
    filled = re.sub(marks, lambda m: f"{m.group(1)}\n{table(record)}\n{m.group(2)}", text, flags=re.DOTALL)
    page.write_text(filled, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--halves", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="keep the retrained models' losses there, to score again")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    settings = {"steps": STEPS, "batch": BATCH, "rate": RATE, "weight_decay": DECAY}
    cases = run(options.halves, options.seed, options.cache)
    write_json(options.out, "Influence scores against retraining", settings, cases)
    if options.out == OUT:
        write_table(json.loads(OUT.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
