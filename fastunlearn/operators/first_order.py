"""g and g . v: the gradient of the loss over all batches, and its product with vectors (without the gradient)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from fastunlearn.errors import InvalidInputError

from .batches import Part
from .curvature import Walk
from .parameters import Choice
from .space import FORMS, Form, Vector

__all__ = ["gradient", "jvp", "wanted_form"]


def wanted_form(form: str) -> str:
    """``form`` itself, or InvalidInputError where it is none of FORMS."""
    if form not in FORMS:
        raise InvalidInputError(f"form={form!r}: use one of {', '.join(FORMS)}")
    return form


@torch.no_grad()
def gradient(
    model: nn.Module,
    batches: Iterable[Mapping] | Mapping,
    loss: Callable[[nn.Module, Mapping], Tensor] | None = None,
    params: Choice = None,
    *,
    reduction: str = "mean",
    batch_weight: Callable[[Mapping], float] | None = None,
    allow_unused: bool = False,
    form: str = "flat",
) -> Vector:
    """``g = (1/W) sum_b w_b d loss_b / dtheta``: flat (P,), or as ``form`` says ("list", "tuple", "dict").

    Arguments as for CurvatureOperator; sums in float32 (float64 for float64 models).
    """
    wanted_form(form)
    walk = Walk(model, batches, loss, params, reduction, batch_weight, allow_unused)
    out = walk.space.zeros(1)
    rest = walk.average(lambda part: walk.engine.gradient(part.batch, out, part.factor, part.token_weights))
    if rest != 1.0:
        out.flat.div_(rest)
    return walk.space.write(out, Form(form, True))


@torch.no_grad()
def jvp(
    model: nn.Module,
    batches: Iterable[Mapping] | Mapping,
    v: Vector,
    loss: Callable[[nn.Module, Mapping], Tensor] | None = None,
    params: Choice = None,
    *,
    reduction: str = "mean",
    batch_weight: Callable[[Mapping], float] | None = None,
) -> Tensor:
    """``g . v``, the derivative of the loss along v: a scalar tensor, or (k,) for k vectors at once.

    One dual forward, no backward. Arguments as for CurvatureOperator, v as for its ``@``.
    """
    walk = Walk(model, batches, loss, params, reduction, batch_weight, True)
    vectors, form = walk.space.read(v, widen=False)
    tangents = walk.tangents(vectors)
    sum_t = torch.zeros(next(iter(vectors.values())).shape[0], dtype=torch.float64, device=walk.space.device)

    def step(part: Part) -> None:
        slopes = walk.engine.jvp(part.batch, tangents, part.token_weights).loss_t
        assert slopes is not None  # there are tangents
        sum_t.add_(slopes.double(), alpha=part.factor)

    rest = walk.average(step)
    if walk.shards is not None:
        sum_t = torch.tensor(walk.shards.total(*sum_t.tolist()), dtype=torch.float64, device=sum_t.device)
    answer = (sum_t / rest).to(walk.space.dtype)
    return answer[0] if form.single else answer
