"""Dense curvature matrices of tiny models, straight from their definitions, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from .double_backward import DoubleBackward
from .exact import Exact


def _oracle(model, params=None, loss=None) -> DoubleBackward:
    chosen = {n: p for n, p in model.named_parameters() if p.requires_grad} if params is None else params
    return DoubleBackward(model, chosen, loss)


def _flat(gradients, parameters) -> Tensor:
    parts = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]
    return torch.cat([part.flatten() for part in parts])


def _rows(oracle: DoubleBackward, values: Tensor) -> Tensor:
    """The gradient of every entry of a vector: (n, P)."""
    return torch.stack([_flat(oracle._grad(value, graph=True), oracle.parameters).detach() for value in values])


def token_rows(oracle: DoubleBackward, batch) -> tuple[Tensor, Tensor]:
    """The gradient of every target token's negative log-likelihood (n, P), and the sequence it is in (n,)."""
    oracle._sync()
    with Exact():
        nll, labels = oracle.token_losses(batch)
        chosen = labels != -100
        return _rows(oracle, nll[chosen]), torch.nonzero(chosen)[:, 0]


def sample_gradients(model, batches, params=None) -> Tensor:
    """G (m, P): each sequence's gradient, summed over its target tokens."""
    oracle = _oracle(model, params)
    found = []
    for batch in batches:
        rows, sample = token_rows(oracle, batch)
        g = torch.zeros(batch["labels"].shape[0], rows.shape[1], dtype=torch.float64)
        found.append(g.index_add_(0, sample, rows))
    return torch.cat(found)


def plain_rows(model, samples) -> Tensor:
    """G (m, P) of ``Sample``s by one plain backward pass each, with the model's own casts to float32 (norms), which the
    others here take out: for what is built on ordinary backward passes."""
    found = []
    for sample in samples:
        logits = model(input_ids=sample.input_ids[None]).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, sample.labels[1:], reduction="sum", ignore_index=-100)
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    return torch.stack(found)


def fisher(model, batches, params=None) -> Tensor:
    """G^T G / m."""
    g = sample_gradients(model, batches, params)
    return g.T @ g / len(g)


def mean_gradient(model, batches, params=None) -> Tensor:
    """The gradient of the mean over all target tokens of all batches, token by token."""
    oracle = _oracle(model, params)
    return torch.cat([token_rows(oracle, batch)[0] for batch in batches]).mean(0)


def hessian(model, batches, params=None) -> Tensor:
    """The Hessian of the same mean, (P, P). The loss of all batches is one scalar here: no weighting can be wrong."""
    oracle = _oracle(model, params)
    oracle._sync()
    with Exact():
        found = [oracle.token_losses(batch) for batch in batches]
        mean = torch.cat([nll[labels != -100] for nll, labels in found]).mean()
        return _rows(oracle, _flat(oracle._grad(mean, graph=True), oracle.parameters))


def ggn(model, batches, params=None) -> Tensor:
    """The mean over target tokens of J^T (diag(p) - p p^T) J, J the dense Jacobian of that token's logits."""
    oracle = _oracle(model, params)
    oracle._sync()
    total, tokens = 0.0, 0
    with Exact():
        for batch in batches:
            logits = oracle.logits(batch)[:, :-1][batch["labels"][:, 1:] != -100]
            for z in logits:
                p, jacobian = z.detach().softmax(-1), _rows(oracle, z)
                total = total + jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian
                tokens += 1
    return total / tokens
