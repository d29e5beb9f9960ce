"""G v and G^T c, with G (m, P) the per-sample gradients of a language model, which is never formed.

Row i of G is the gradient of sequence i's negative log-likelihood, *summed* over its target tokens. Rows are numbered
through all batches in their order. So F = G^T G / m is the empirical Fisher matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from fastunlearn.errors import InvalidInputError

from .curvature import Walk
from .first_order import wanted_form
from .parameters import Choice
from .space import Form, Vector

__all__ = ["per_sample_dot", "weighted_gradient"]


@torch.no_grad()
def per_sample_dot(model: nn.Module, batches: Iterable[Mapping] | Mapping, v: Vector, params: Choice = None) -> Tensor:
    """``G v``: each sequence's gradient times v, (m,), or (m, k) for k vectors at once.

    One dual forward (about one gradient), no backward. v as for an operator's ``@``; sums over tokens in float32
    (float64 for float64 models). Raises InvalidInputError.
    """
    walk = Walk(model, batches, None, params, "sum", None, True)
    _check_whole(walk)
    vectors, form = walk.space.read(v, widen=False)
    tangents = walk.tangents(vectors)
    columns = []
    for part in walk.batches:
        if part.weight == 0:  # no targets: these rows of G are zero
            columns.append(torch.zeros(_count(vectors), part.samples, dtype=walk.space.dtype, device=walk.space.device))
            continue
        _, nll_t, _ = walk.engine.token_jvp(part.batch, tangents)
        columns.append(nll_t.to(walk.space.dtype).sum(-1))
    answer = torch.cat(columns, 1)
    return answer[0] if form.single else answer.T


@torch.no_grad()
def weighted_gradient(
    model: nn.Module,
    batches: Iterable[Mapping] | Mapping,
    c: Tensor,
    params: Choice = None,
    *,
    form: str = "flat",
) -> Vector:
    """``G^T c``: the sum of c_i times sequence i's gradient, flat (P,) or as ``form`` says; (P, k) for c (m, k).

    One backward pass of the weighted loss. c: (m,) or (m, k), of any floating dtype. Raises InvalidInputError.
    """
    wanted_form(form)
    walk = Walk(model, batches, None, params, "sum", None, True)
    _check_whole(walk)
    if not isinstance(c, Tensor) or not c.is_floating_point() or c.dim() not in (1, 2) or c.numel() == 0:
        raise InvalidInputError("c must be a floating-point tensor (m,) or (m, k): a weight for each of m sequences")
    rows = (c[:, None] if c.dim() == 1 else c).to(walk.space.dtype).to(walk.space.device).T
    out = walk.space.zeros(rows.shape[0])
    done = 0
    for part in walk.batches:
        weights = rows[:, done : done + part.samples, None]
        done += part.samples
        if weights.shape[1] == part.samples and part.weight > 0:
            walk.engine.weighted_gradient(part.batch, weights, out)
    if done != rows.shape[1]:
        raise InvalidInputError(f"c has {rows.shape[1]} weights, but the batches hold {done} sequences: give one each")
    return walk.space.write(out, Form(form, c.dim() == 1))


def _count(vectors: Mapping[str, Tensor]) -> int:
    return next(iter(vectors.values())).shape[0]


def _check_whole(walk: Walk) -> None:
    if walk.shards is not None:
        raise InvalidInputError("model is sharded (fully_shard): use LowRankFisher, which has these products inside")
