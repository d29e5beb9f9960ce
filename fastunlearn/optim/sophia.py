"""Sophia: momentum over a diagonal of the curvature, clipped entry by entry (Liu et al. 2023, arXiv 2305.14342).

    m <- beta1 m + (1 - beta1) g                            every step
    h <- beta2 h + (1 - beta2) estimate                     every ``every`` steps
    theta <- theta - lr weight_decay theta
    theta <- theta - lr clip(m / max(gamma h, eps), 1)      entries to [-1, 1]

Where the curvature is large the step is a Newton step, damped; where it is small, negative or not yet known the entry
moves by lr in the direction of its momentum's sign. gamma is such that 10 to 50 % of the entries are *not* clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastunlearn.errors import InvalidInputError

from .diagonal import ESTIMATES, diagonal_estimate

__all__ = ["Sophia", "curvature_update", "sophia_update"]


@torch.no_grad()
def curvature_update(curvatures: Sequence[Tensor], estimates: Sequence[Tensor], *, beta2: float = 0.99) -> None:
    """``h <- beta2 h + (1 - beta2) estimate``, in place, tensor by tensor."""
    for h, estimate in zip(curvatures, estimates, strict=True):
        h.mul_(beta2).add_(estimate.to(h), alpha=1.0 - beta2)


@torch.no_grad()
def sophia_update(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    momenta: Sequence[Tensor],
    curvatures: Sequence[Tensor],
    *,
    lr: float,
    beta1: float = 0.96,
    gamma: float = 0.05,
    eps: float = 1e-12,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """One step of Sophia, in place: ``momenta`` take in the gradients once, then ``parameters`` move.

    Four sequences of tensors of the same shapes; momenta and curvatures at least float32. ``maximize``: the gradients
    are those of what should grow. The curvatures are as :func:`curvature_update` leaves them, and stay.
    """
    sign = -1.0 if maximize else 1.0
    for p, g, m, h in zip(parameters, gradients, momenta, curvatures, strict=True):
        m.mul_(beta1).add_(g.to(m), alpha=sign * (1.0 - beta1))
        if weight_decay:
            p.mul_(1.0 - lr * weight_decay)
        step = torch.div(m, torch.clamp(gamma * h, min=eps)).clamp_(-1.0, 1.0)
        p.add_(step.to(p), alpha=-lr)


def _wide(p: Tensor) -> torch.dtype:
    """The dtype that the state of a parameter is kept in."""
    return torch.promote_types(p.dtype, torch.float32)


class Sophia(torch.optim.Optimizer):
    """``Sophia(model.parameters(), lr)``; parameters may come in groups with settings of their own.

    ``betas``: of the momentum and of the curvature. ``gamma``: 0.05 for ``kind="gauss-newton-bartlett"``, 0.01 for
    "hutchinson" (the paper's). ``every``: how many steps one estimate of the curvature serves: ``curvature_due`` says
    when a new one is wanted. ``seed``: of the estimates, which are the same from run to run.

    >>> for batch in batches:
    ...     model(**batch).loss.backward()
    ...     if optimizer.curvature_due:
    ...         optimizer.update_curvature(model, batch)
    ...     optimizer.step()
    ...     optimizer.zero_grad()

    Momentum and curvature are in float32 (float64 for float64 weights). Raises InvalidInputError.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-4,
        *,
        betas: tuple[float, float] = (0.96, 0.99),
        gamma: float | None = None,
        eps: float = 1e-12,
        weight_decay: float = 0.0,
        kind: str = "gauss-newton-bartlett",
        every: int = 10,
        seed: int = 0,
        maximize: bool = False,
    ) -> None:
        if kind not in ESTIMATES:
            raise InvalidInputError(f"kind={kind!r} is unknown; use one of {', '.join(ESTIMATES)}")
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise InvalidInputError(f"every={every!r} must be an integer of at least 1")
        if gamma is None:
            gamma = 0.01 if kind == "hutchinson" else 0.05
        self.kind, self.every, self.seed = kind, every, seed
        defaults = {"lr": lr, "betas": betas, "gamma": gamma, "eps": eps, "weight_decay": weight_decay,
                    "maximize": maximize}  # fmt: skip
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As PyTorch's; checks the group's settings."""
        group = {**self.defaults, **param_group}
        if not all(0 <= beta < 1 for beta in group["betas"]):
            raise InvalidInputError(f"betas={group['betas']!r} must lie between 0 and 1")
        for name in ("lr", "gamma", "eps", "weight_decay"):
            if not 0 <= group[name] < float("inf") or (name == "eps" and group[name] == 0):
                raise InvalidInputError(f"{name}={group[name]!r} must be a finite number of at least 0 (eps: above)")
        super().add_param_group(param_group)
        self.param_groups[-1].setdefault("steps", 0)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: PyTorch's leaves out what is not in the groups."""
        return {**super().__getstate__(), "kind": self.kind, "every": self.every, "seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As PyTorch's, but for its cast of all state to the weights' dtype: a resumed run goes on with the bits."""
        super().load_state_dict(state_dict)
        saved = [number for group in state_dict["param_groups"] for number in group["params"]]
        own = [p for group in self.param_groups for p in group["params"]]
        for number, p in zip(saved, own, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                self.state[p][name] = value.to(p.device, _wide(p))

    @property
    def curvature_due(self) -> bool:
        """Whether the next step is one at which the curvature should be estimated anew."""
        return self.param_groups[0]["steps"] % self.every == 0

    def _state(self, p: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p, dtype=_wide(p), memory_format=torch.preserve_format)
            state["curvature"] = torch.zeros_like(p, dtype=_wide(p), memory_format=torch.preserve_format)
        return state

    def update_curvature(
        self, model: nn.Module, batch: Mapping[str, Any], loss: Callable[[nn.Module, Any], Tensor] | None = None
    ) -> None:
        """Estimates the curvature of ``model`` at ``batch`` (the ``kind`` of this optimizer) and takes it into the
        average. ``loss(model, batch)``: of ``kind="hutchinson"``, default the mean over target tokens."""
        trained = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        seed = self.seed + self.param_groups[0]["steps"]
        self.add_curvature(trained, diagonal_estimate(
            model, batch, kind=self.kind, params=trained, loss=loss, seed=seed
        ))  # fmt: skip

    def add_curvature(self, parameters: Sequence[Tensor], estimates: Sequence[Tensor]) -> None:
        """Takes estimates of your own into the average, one for each of ``parameters``."""
        found = dict(zip(map(id, parameters), estimates, strict=True))
        for group in self.param_groups:
            mine = [p for p in group["params"] if id(p) in found]
            curvature_update(
                [self._state(p)["curvature"] for p in mine], [found[id(p)] for p in mine], beta2=group["betas"][1]
            )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update from the parameters' ``grad``; those without one stay. ``closure``: computes the loss and the
        gradients anew; its loss is returned."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            states = [self._state(p) for p in moved]
            sophia_update(
                moved, [p.grad for p in moved], [s["momentum"] for s in states], [s["curvature"] for s in states],
                lr=group["lr"], beta1=group["betas"][0], gamma=group["gamma"], eps=group["eps"],
                weight_decay=group["weight_decay"], maximize=group["maximize"],
            )  # fmt: skip
            group["steps"] += 1
        return value
