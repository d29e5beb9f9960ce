"""The output layer's Hessian product, 4096 tokens x 4096 -> 128256, beside double backward on whole logits and
hessian-eigenthings' fused kernel where that is installed."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Iterator

import torch

from bench.device.measure import Bench, error
from fastunlearn.ops.linear_cross_entropy import hessian_product

DOUBLE = "torch: double backward, whole logits"
FUSED = "hessian_eigenthings.loss_fns._fused_ce_hvp"


def cross_entropy(bench: Bench) -> list:
    n, width, vocabulary = (16, 8, 50) if bench.toy else (4096, 4096, 128256)
    return [({"tokens": n, "width": width, "vocabulary": vocabulary, "ways": {}}, functools.partial(_fill, bench))]


def _fill(bench: Bench, case: dict) -> Iterator[None]:
    n, width, vocabulary, ways = case["tokens"], case["width"], case["vocabulary"], case["ways"]
    x, weight = bench.draw(n, width), bench.draw(vocabulary, width, scale=width**-0.5)
    xt, weight_t = bench.draw(1, n, width), bench.draw(1, vocabulary, width, scale=width**-0.5)
    labels = torch.randint(vocabulary, (n,), device=bench.device)
    weights = torch.full((n,), 1.0 / n, device=bench.device)

    def twice():
        leaves = [t.detach().requires_grad_() for t in (x, weight)]
        loss = torch.nn.functional.cross_entropy((leaves[0] @ leaves[1].T).float(), labels)
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        return torch.autograd.grad(first, leaves, (xt[0], weight_t[0]))

    def ours():  # with its result, in float32, as the others make theirs within what is measured
        out = torch.zeros(1, vocabulary, width, device=bench.device)
        return hessian_product(x, xt, weight, weight_t, labels, weights, True, out), out

    ways["fastunlearn"] = bench.measure(ours)
    bench.share_of_product_rate(ways["fastunlearn"], 8 * 2 * n * width * vocabulary)
    yield
    ways[DOUBLE] = bench.measure(twice)
    yield
    if importlib.util.find_spec("hessian_eigenthings") is not None:
        operator = functools.cache(lambda: _operator(x, weight, xt, weight_t, labels))  # what fails in it is its own
        ways["hessian-eigenthings: its operator"] = bench.measure(lambda: operator()())
        yield
    if _has_fused():
        ways["hessian-eigenthings: fused kernel, products around it"] = bench.measure(
            lambda: _by_hand(x, xt[0], weight, weight_t[0], labels)
        )
        yield
    if all("seconds" in ways[name] for name in ("fastunlearn", DOUBLE)):
        case["difference_of_hx"] = error(ours()[0][3][0], twice()[0])


def _operator(x, weight, xt, weight_t, labels):
    """The Hessian in weight and input as its users get it."""
    from bench.linear_cross_entropy import Head, eigenthings_ways

    # Its loss shifts labels by one place: one more stands in front, and the last token has none.
    batch = {"x": x[None], "labels": torch.cat([labels[:1], labels[:-1]])[None]}
    vector = torch.cat([weight_t.flatten(), xt.flatten()])
    return eigenthings_ways(Head(weight, x[None]), batch, vector, False)[0].run


def _has_fused() -> bool:
    try:
        return importlib.util.find_spec(FUSED) is not None
    except ModuleNotFoundError:
        return False


def _by_hand(x, xt, weight, weight_t, labels):
    """The most that can be made of its kernel, which gives the loss's own Hessian times the logits' tangent: exact
    products of the layer around it."""
    kernel = importlib.import_module(FUSED).compiled_ce_hvp
    n = len(x)
    z, zt = x @ weight.T, xt @ weight.T + x @ weight_t.T
    h = kernel(z, zt, torch.ones(n, device=x.device), torch.tensor(float(n), device=x.device)).to(x.dtype)
    g = torch.softmax(z, 1, dtype=torch.float32).to(x.dtype)
    g[torch.arange(n, device=x.device), labels] -= 1
    g /= n
    return h @ weight + g @ weight_t, h.T @ x + g.T @ xt
