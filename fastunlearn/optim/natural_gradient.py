"""The natural gradient of a batch, in sample space (Amari 1998; Ren & Goldfarb 2019, arXiv 1906.02353).

    F = damping I + G^T G / m           G (m, P): a row for each sequence, the gradient of its summed loss
    empirical:  F^-1 G^T c, c = 1/m:    m G^T (m damping I + K)^-1 c: one weighted backward pass, from K = G G^T
    sampled:    F^-1 g by Woodbury      G of labels drawn from the model, g of the given ones

The loss is the mean over sequences, so that half of d^T F d is the change in nats of a sequence's prediction that a
direction d makes, to second order. G is never formed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.parameters import Choice, choose_parameters
from fastunlearn.operators.sample_gradients import KINDS, SampleGradients
from fastunlearn.operators.samples import to_samples
from fastunlearn.solve.sample_space import SampleSpaceFisher, check_damping

__all__ = ["NaturalGradient", "natural_gradient"]


class Direction(NamedTuple):
    """``tensors``: F^-1 g, by parameter name. ``loss``: the batch's mean over target tokens, in nats. ``slope``:
    g . F^-1 g, what a step of size 1 would lower the loss of a sequence by, to first order."""

    tensors: dict[str, Tensor]
    loss: Tensor
    slope: float


def natural_gradient(
    model: nn.Module,
    batch: Mapping | Iterable[Mapping],
    *,
    damping: float,
    kind: str = "empirical",
    blocks: str = "model",
    params: Choice = None,
    memory: int | str = "8GB",
    pad_token_id: int = 0,
    seed: int = 0,
) -> Direction:
    """``F^-1 g`` of one batch at the model's present weights: about two gradients and an m x m Cholesky factor.

    ``damping``: above 0. ``kind``: "empirical", or "sampled" for the true Fisher. ``blocks``: "model", "layer" or
    "tensor". Dropout is off meanwhile. Raises InvalidInputError and NotPositiveDefiniteError (damping too small).
    """
    if kind not in KINDS:
        raise InvalidInputError(f"kind={kind!r} is unknown; use one of {', '.join(KINDS)}")
    samples, chosen = to_samples(batch), choose_parameters(model, params)
    settings: dict[str, Any] = {"pad_token_id": pad_token_id, "parameters": chosen, "memory": memory}
    own = SampleGradients(model, samples, **settings)
    c = torch.full((len(samples),), 1.0 / len(samples), dtype=torch.float64, device=own.device)
    if kind == "empirical":
        fisher = SampleSpaceFisher(own, check_damping(damping), blocks=blocks)
        weights = fisher.sample_weights(c)
        tensors = own.weighted_gradient(weights, fisher.blocks.of)
        slope = float((fisher.gram @ c * weights).sum())
    else:
        g = own.weighted_gradient(c)
        drawn = SampleGradients(model, samples, kind="sampled", seed=seed, plan=own.plan, **settings)
        tensors = SampleSpaceFisher(drawn, check_damping(damping), blocks=blocks).solve(g)
        slope = sum(float((g[name].double() * tensors[name].double()).sum()) for name in g)
    tokens = sum(int((s.labels[1:] != -100).sum()) for s in samples)
    assert own.losses is not None
    return Direction(tensors, own.losses.sum() / max(tokens, 1), slope)


class NaturalGradient(torch.optim.Optimizer):
    """Descent along natural gradients, with momentum. ``backward`` stands in the place of ``loss.backward()``.

    ``damping``: lambda of F, in squared nats per squared unit of the weights: the larger, the nearer to plain descent.
    ``momentum``: of the natural gradients, as in ``torch.optim.SGD``. ``trust``: the most nats that a direction may
    change a sequence's prediction by, to second order and before lr; longer ones are shortened. ``kind``, ``blocks``,
    ``memory``, ``seed``: as for :func:`natural_gradient`. One damping serves all groups; lr, momentum and weight decay
    (decoupled) are theirs.

    >>> for batch in batches:
    ...     loss = optimizer.backward(model, batch)         # adds to every parameter's grad
    ...     optimizer.step()
    ...     optimizer.zero_grad()
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 0.3,
        *,
        damping: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float | None = 1.0,
        kind: str = "empirical",
        blocks: str = "model",
        memory: int | str = "8GB",
        pad_token_id: int = 0,
        seed: int = 0,
    ) -> None:
        if trust is not None and not 0 < trust < float("inf"):
            raise InvalidInputError(f"trust={trust!r} must be a finite number of nats above 0, or None")
        self.trust = trust
        self._settings: dict[str, Any] = {
            "damping": check_damping(damping), "kind": kind, "blocks": blocks, "memory": memory,
            "pad_token_id": pad_token_id,
        }  # fmt: skip
        self._seed = seed
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As PyTorch's; checks the group's settings."""
        group = {**self.defaults, **param_group}
        if not 0 <= group["momentum"] < 1:
            raise InvalidInputError(f"momentum={group['momentum']!r} must be at least 0 and below 1")
        for name in ("lr", "weight_decay"):
            if not 0 <= group[name] < float("inf"):
                raise InvalidInputError(f"{name}={group[name]!r} must be a finite number of at least 0")
        super().add_param_group(param_group)
        self.param_groups[-1].setdefault("steps", 0)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: PyTorch's leaves out what is not in the groups."""
        own = {"trust": self.trust, "_settings": self._settings, "_seed": self._seed}
        return {**super().__getstate__(), **own}

    def backward(self, model: nn.Module, batch: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> Tensor:
        """Adds the batch's natural gradient to the ``grad`` of the parameters; the batch's loss (mean over target
        tokens, a float64 scalar)."""
        trained = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        seed = self._seed + self.param_groups[0]["steps"]
        found = natural_gradient(model, batch, params=trained, seed=seed, **self._settings)
        change = found.slope / 2
        scale = 1.0 if self.trust is None or change <= self.trust else (self.trust / change) ** 0.5
        for p, direction in zip(trained, found.tensors.values(), strict=True):
            scaled = (direction * scale).to(p)
            p.grad = scaled if p.grad is None else p.grad.add_(scaled)
        return found.loss

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update from the parameters' ``grad``; those without one stay. ``closure``: calls :meth:`backward` anew
        and returns the loss, which is returned."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                direction = p.grad
                if group["momentum"]:
                    state = self.state[p]
                    if "momentum" not in state:
                        state["momentum"] = torch.zeros_like(p)
                    direction = state["momentum"].mul_(group["momentum"]).add_(p.grad)
                if group["weight_decay"]:
                    p.mul_(1.0 - group["lr"] * group["weight_decay"])
                p.add_(direction, alpha=-group["lr"])
            group["steps"] += 1
        return value
