"""The interface of the dual pass by PyTorch's double backward, in float64: slow, plain, and the truth of the tests.

Every call copies the model's weights as they are into a float64 copy of the model, with fused paths off (exact.py).
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .exact import Exact


class Result(NamedTuple):
    loss: Tensor
    loss_t: Tensor | None
    unused: frozenset[str] = frozenset()


class DoubleBackward:
    """``DualPass(model, parameters, loss)`` by double backward."""

    def __init__(self, model: nn.Module, parameters: dict[str, nn.Parameter], loss=None, memory="auto") -> None:
        self.model, self.names, self.loss = model, list(parameters), loss
        self.copy = copy.deepcopy(model).double()
        if hasattr(self.copy, "set_experts_implementation"):  # grouped matrix products have no second derivative
            self.copy.set_experts_implementation("eager")
        own = dict(self.copy.named_parameters())
        for name, p in own.items():
            p.requires_grad_(name in parameters)
        self.parameters = [own[name] for name in self.names]

    def _sync(self) -> None:
        with torch.no_grad():
            for mine, theirs in zip(self.copy.parameters(), self.model.parameters(), strict=True):
                mine.copy_(theirs)
        self.copy.train(self.model.training)

    @staticmethod
    def _wide(batch) -> dict:
        floats = {n: v.double() for n, v in batch.items() if isinstance(v, Tensor) and v.is_floating_point()}
        return {**batch, **floats}

    def logits(self, batch) -> Tensor:
        inputs = {name: value for name, value in self._wide(batch).items() if name != "labels"}
        output = self.copy(**inputs)
        return getattr(output, "logits", output)

    def token_losses(self, batch) -> tuple[Tensor, Tensor]:
        """nll (B, S-1) and the labels that it belongs to."""
        logits, labels = self.logits(batch)[:, :-1], batch["labels"][:, 1:]
        nll = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=-100)
        return nll.view(labels.shape), labels

    def scalar(self, batch, token_weights=None) -> Tensor:
        self._sync()
        if self.loss is not None:
            return self.loss(self.copy, self._wide(batch))
        nll, labels = self.token_losses(batch)
        if token_weights is not None:
            return (nll * token_weights).sum()
        return nll.sum() / (labels != -100).sum()

    def _grad(self, scalar, graph=False) -> list[Tensor | None]:
        return torch.autograd.grad(scalar, self.parameters, create_graph=graph, retain_graph=True, allow_unused=True)

    def _add(self, out, k: int, weight: float, gradients) -> None:
        for name, gradient in zip(self.names, gradients, strict=True):
            if gradient is not None:
                out[name][k] += (weight * gradient).to(out[name].dtype)

    def _dot(self, gradients, tangents, k) -> Tensor:
        return sum(
            (g * tangents[n][k].double()).sum() for n, g in zip(self.names, gradients, strict=True) if g is not None
        )

    def _unused(self, gradients) -> frozenset[str]:
        return frozenset(n for n, g in zip(self.names, gradients, strict=True) if g is None)

    def gradient(self, batch, out, weight=1.0, token_weights=None) -> Result:
        with Exact():
            loss = self.scalar(batch, token_weights)
            gradients = self._grad(loss)
            self._add(out, 0, weight, gradients)
        return Result(loss.detach(), None, self._unused(gradients))

    def jvp(self, batch, tangents, token_weights=None) -> Result:
        with Exact():
            loss = self.scalar(batch, token_weights)
            gradients = self._grad(loss)
            k = len(next(iter(tangents.values())))
            return Result(loss.detach(), torch.stack([self._dot(gradients, tangents, i) for i in range(k)]))

    def hessian(self, batch, tangents, out, weight=1.0, token_weights=None) -> Result:
        with Exact():
            loss = self.scalar(batch, token_weights)
            gradients = self._grad(loss, graph=True)
            dots = [self._dot(gradients, tangents, k) for k in range(len(next(iter(tangents.values()))))]
            for k, dot in enumerate(dots):
                self._add(out, k, weight, self._grad(dot))
        return Result(loss.detach(), torch.stack(dots).detach(), self._unused(gradients))

    def _forward_mode(self, output: Tensor, tangents) -> list[Tensor]:
        """J v by two reverse sweeps: the derivative of J^T u with respect to u."""
        u = torch.zeros_like(output, requires_grad=True)
        pulled = torch.autograd.grad(output, self.parameters, u, create_graph=True, allow_unused=True)
        dots = [self._dot(pulled, tangents, k) for k in range(len(next(iter(tangents.values()))))]
        return [torch.autograd.grad(dot, u, retain_graph=True)[0] for dot in dots]

    def token_jvp(self, batch, tangents) -> tuple[Tensor, Tensor, Tensor]:
        self._sync()
        with Exact():
            nll, labels = self.token_losses(batch)
            return nll.detach(), torch.stack(self._forward_mode(nll, tangents)), labels

    def weighted_gradient(self, batch, token_weights, out) -> Result:
        self._sync()
        with Exact():
            nll, _ = self.token_losses(batch)
            k = len(next(iter(out.values())))
            for i, weights in enumerate(token_weights.double().expand(k, *nll.shape)):
                gradients = self._grad((weights * nll).sum())
                self._add(out, i, 1.0, gradients)
        return Result(nll.sum().detach(), None, self._unused(gradients))

    def ggn(self, batch, tangents, out, weight=1.0, token_weights=None) -> Result:
        """J^T (diag(p) - p p^T) J over the target tokens, each weighed by ``token_weights`` or by 1 / n."""
        if self.loss is not None:
            raise NotImplementedError("the oracle's Gauss-Newton matrix is that of the default loss")
        self._sync()
        with Exact():
            labels = batch["labels"][:, 1:]
            logits = self.logits(batch)[:, :-1][labels != -100]
            p = logits.detach().softmax(-1)
            each = torch.full((len(p),), 1 / len(p), dtype=p.dtype)
            if token_weights is not None:
                each = token_weights.to(p).expand(labels.shape)[labels != -100]
            for k, z_t in enumerate(self._forward_mode(logits, tangents)):
                h = (p * z_t - p * (p * z_t).sum(-1, keepdim=True)) * each[:, None]
                pulled = torch.autograd.grad(logits, self.parameters, h, retain_graph=True, allow_unused=True)
                self._add(out, k, weight, pulled)
            loss = (F.cross_entropy(logits, labels[labels != -100], reduction="none") * each).sum()
        return Result(loss.detach(), None, self._unused(pulled))
