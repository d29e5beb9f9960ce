"""Estimates of the diagonal of a curvature matrix from one batch, for optimizers that divide by it.

    hutchinson               E[u * (H u)] = diag H               u: standard normal or signs, H: the Hessian
    gauss-newton-bartlett    E[T g * g]   = diag GGN             g: gradient of the mean loss over T target tokens whose
                                                                 labels are drawn from the model

(Hutchinson 1989; the second is that of Liu et al. 2023, arXiv 2305.14342. It holds because the gradients of drawn
labels have mean zero and are independent, so that only the squares are left of T g g^T.) The first costs 8/3 of a
gradient and may be negative, the second one gradient and a forward pass, and is never negative.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.batches import Loss, target_tokens
from fastunlearn.operators.first_order import gradient
from fastunlearn.operators.fisher import draw_labels
from fastunlearn.operators.hessian import Hessian
from fastunlearn.operators.model_state import evaluation
from fastunlearn.operators.parameters import Choice, choose_parameters

__all__ = ["ESTIMATES", "diagonal_estimate"]

ESTIMATES = ("hutchinson", "gauss-newton-bartlett")


@torch.no_grad()
def diagonal_estimate(
    model: nn.Module,
    batch: Mapping,
    *,
    kind: str = "gauss-newton-bartlett",
    params: Choice = None,
    loss: Loss | None = None,
    seed: int = 0,
) -> list[Tensor]:
    """One unbiased estimate of the curvature's diagonal, a tensor for each parameter, in its shape, at least float32.

    ``batch``: a mapping as the model takes it. ``kind``: one of ESTIMATES. ``params``: as for the operators; the list
    has their order. ``loss``: of the Hessian, default the mean over target tokens; the Gauss-Newton kind is that of
    the likelihood and takes none. ``seed``: of the random vector, or of the drawn labels. The model is put into
    evaluation mode meanwhile, without dropout. A parameter without a part in the loss gets zeros.
    Raises InvalidInputError.
    """
    if kind not in ESTIMATES:
        raise InvalidInputError(f"kind={kind!r} is unknown; use one of {', '.join(ESTIMATES)}")
    if not isinstance(batch, Mapping):
        raise InvalidInputError(f"batch is a {type(batch).__name__}; it must be a mapping of the model's arguments")
    chosen = choose_parameters(model, params)
    with evaluation(model, list(chosen.values())):
        if kind == "hutchinson":
            return _hutchinson(model, batch, chosen, loss, seed)
        if loss is not None:
            raise InvalidInputError("loss goes with kind='hutchinson'; the other kind is that of the likelihood")
        return _bartlett(model, batch, chosen, seed)


def _hutchinson(
    model: nn.Module, batch: Mapping, chosen: dict[str, nn.Parameter], loss: Loss | None, seed: int
) -> list[Tensor]:
    hessian = Hessian(model, batch, loss, list(chosen.values()), allow_unused=True)
    generator = torch.Generator().manual_seed(seed)
    # Drawn on the CPU, so that a seed means the same on every device; signs have the least variance.
    u = [
        (2.0 * torch.randint(2, p.shape, generator=generator) - 1.0).to(hessian.dtype).to(p.device)
        for p in chosen.values()
    ]
    return [a.mul_(b) for a, b in zip(hessian @ u, u, strict=True)]


def _bartlett(model: nn.Module, batch: Mapping, chosen: dict[str, nn.Parameter], seed: int) -> list[Tensor]:
    device = next(iter(chosen.values())).device
    moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    tokens = int(target_tokens(moved, "batch").sum())
    drawn = {**moved, "labels": draw_labels(model, moved, seed)}
    found = gradient(model, drawn, params=list(chosen.values()), allow_unused=True, form="list")
    assert isinstance(found, list)
    return [g.square_().mul_(tokens) for g in found]
