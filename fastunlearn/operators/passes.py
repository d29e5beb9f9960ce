"""The passes over the samples that keep no factors: a weighted backward pass, a dual forward pass, and one pass for
each sample."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastunlearn._threads import of_this_thread
from fastunlearn.errors import InvalidInputError
from fastunlearn.resources import trim

from .capture import token_losses
from .forward import arguments
from .gemm import FastLinears
from .head import head_backward, plain_head, plain_losses
from .losses import negative_log_likelihood
from .model_state import evaluation
from .sources import RowsSource
from .targets import make_batch

if TYPE_CHECKING:
    from .sample_gradients import SampleGradients

__all__ = ["HeadInputs", "backward_sum", "forward_products", "one_by_one"]


class _Stop(Exception):
    """Ends a forward pass before the output layer."""


class HeadInputs:
    """What enters the output layer at the positions that predict a target, without the logits being made.

    ``usable``: whether the loss can be had from it: an ordinary output layer, whose output are the logits (tried on
    one sample), and the negative log-likelihood.
    """

    def __init__(self, gradients: SampleGradients):
        self.model, self.pad = gradients.model, gradients.pad_token_id
        self.head = plain_head(self.model)
        self.usable = self.head is not None and gradients.loss is negative_log_likelihood and self._agrees(gradients)

    def rows(self, part) -> tuple[Tensor, Tensor, Tensor]:
        """x (n, d) with its graph, labels (n,) and the row of the batch (n,) of each."""
        batch = make_batch(self.model, part, self.pad)
        labels = batch["labels"][:, 1:]
        seen = []

        def stop(_module, args):
            seen.append(args[0])
            raise _Stop

        handle = self.head.register_forward_pre_hook(of_this_thread(stop))
        try:
            with suppress(_Stop):
                self.model(**arguments(self.model, batch))
        finally:
            handle.remove()
        chosen = labels != -100
        return seen[0][:, :-1][chosen], labels[chosen], chosen.nonzero()[:, 0]

    @torch.no_grad()
    def _agrees(self, gradients: SampleGradients) -> bool:
        some = gradients.samples[:1]
        with evaluation(self.model):
            truth = token_losses(self.model, some, gradients.loss, self.pad)[0]
            x, labels, _ = self.rows(some)
            found = plain_losses(x, self.head.weight, labels)
        return found.shape == truth.shape and torch.allclose(found.to(truth), truth, rtol=1e-3, atol=1e-4)


def backward_sum(gradients: SampleGradients, c: Tensor) -> dict[str, Tensor]:
    """``G^T c`` by parameter, c (m,), batch by batch; writes and takes up the pass's state where there is one."""
    self, chosen = gradients, list(gradients.parameters.values())
    wide = torch.float64 if chosen[0].dtype == torch.float64 else torch.float32
    total = {name: torch.zeros(p.shape, dtype=wide, device=p.device) for name, p in self.parameters.items()}
    state = self.state(c)
    held, facts = state.load() if state is not None else ({}, {})
    for name, sum_ in total.items():
        sum_.copy_(held.get(name, sum_))
    sums = [held["losses"]] if held else []
    inputs = HeadInputs(self)
    with ExitStack() as stack:
        stack.enter_context(evaluation(self.model, chosen))
        stack.enter_context(FastLinears())
        name = f"Weighted gradient of {len(self)} {self.label}"
        task = stack.enter_context(self.progress.task(name, total=len(self)))
        for start in range(facts.get("next", 0), len(self), self.batch_size):
            part = self.samples[start : start + self.batch_size]
            own = None if self.row_weights is None else self.row_weights[start : start + len(part)]
            step = _by_head if inputs.usable else _by_logits
            losses, sample, found = step(self, inputs, part, own, c[start : start + len(part)], total)
            for sum_, gradient in zip(total.values(), found, strict=True):
                if gradient is not None:
                    sum_ += gradient
            sums.append(torch.zeros(len(part), dtype=torch.float64, device=losses.device))
            sums[-1].index_add_(0, sample, losses.detach().double())
            task.advance(len(part))
            if state is not None:
                state.step({**total, "losses": torch.cat(sums)}, {"next": start + len(part)})
    if state is not None:
        state.remove()
    self.losses = torch.cat(sums)
    trim()
    return total


def _by_logits(self: SampleGradients, _inputs, part, own, c, _total):
    losses, sample = token_losses(self.model, part, self.loss, self.pad_token_id, own)
    weighted = (losses * c[sample].to(losses.dtype)).sum()
    return losses, sample, torch.autograd.grad(weighted, list(self.parameters.values()), allow_unused=True)


def _by_head(self: SampleGradients, inputs: HeadInputs, part, own, c, total):
    x, labels, sample = inputs.rows(part)
    wide = torch.promote_types(x.dtype, torch.float32)
    each = x.new_ones(len(x), dtype=wide) if own is None else own.to(x.device, wide)[sample]
    weight = inputs.head.weight
    out = next((total[name] for name, p in self.parameters.items() if p is weight), None)
    scale = each * c.to(x.device, wide)[sample]
    losses, _, gx = head_backward(x.detach(), weight.detach(), labels, scale, weight_out=out)
    if not x.requires_grad:  # only the output layer was chosen
        return losses * each, sample, [None] * len(self.parameters)
    return losses * each, sample, torch.autograd.grad(x, list(self.parameters.values()), gx, allow_unused=True)


@torch.no_grad()
def forward_products(gradients: SampleGradients, vectors: dict[str, Tensor]) -> Tensor:
    """``G V`` (m, k) float64 for vectors (k, *shape): the derivatives of the samples' losses, by the dual pass."""
    from .curvature import make_engine  # which reads the batches of operators

    self = gradients
    engine = make_engine(self.model, self.parameters, None, "recompute")
    tangents = {name: vectors[name].to(p.dtype) for name, p in self.parameters.items()}
    columns = next(iter(vectors.values())).shape[0]
    found = torch.zeros(len(self), columns, dtype=torch.float64, device=self.device)
    name = f"Products with {len(self)} {self.label}"
    with evaluation(self.model), self.progress.task(name, total=len(self)) as task:
        for start in range(0, len(self), self.batch_size):
            part = self.samples[start : start + self.batch_size]
            batch = make_batch(self.model, part, self.pad_token_id)
            if bool((batch["labels"][:, 1:] != -100).any()):
                found[start : start + len(part)] = engine.token_jvp(batch, tangents)[1].sum(-1, dtype=torch.float64).T
            task.advance(len(part))
    if self.row_weights is not None:
        found *= self.row_weights.to(found)[:, None]
    odd = torch.nonzero(~torch.isfinite(found).all(1))
    if odd.numel():
        raise InvalidInputError(
            f"model: a product with the gradient of sample {int(odd[0])} (counted from 0) of the {self.label} is NaN "
            "or infinite; check that sample, the vector and the weights, or use a wider dtype"
        )
    return found


def one_by_one(gradients: SampleGradients, names: list[str]) -> dict[str, list[RowsSource]]:
    """Gradients of parameters without a rule: one backward pass for each sample."""
    self, chosen = gradients, [gradients.parameters[name] for name in names]
    rows = [p.new_empty(len(self), p.numel()) for p in chosen]
    sums = []
    with (
        evaluation(self.model, chosen),
        self.progress.task(f"Gradients of {len(self)} {self.label}, one by one", total=len(self)) as task,
    ):
        for i, sample in enumerate(self.samples):
            own = None if self.row_weights is None else self.row_weights[i : i + 1]
            loss = token_losses(self.model, [sample], self.loss, self.pad_token_id, own)[0].sum()
            found = [None] * len(chosen)  # where none of them takes part in the loss
            if loss.requires_grad:
                found = torch.autograd.grad(loss, chosen, allow_unused=True)
            for row, gradient in zip(rows, found, strict=True):
                row[i] = 0 if gradient is None else gradient.flatten()
            sums.append(loss.detach().double())
            task.advance(1)
    self.losses = torch.stack(sums)
    return {name: [RowsSource(row)] for name, row in zip(names, rows, strict=True)}
