"""Influence functions in sample space (Koh & Liang 2017, arXiv 1703.04730): what a record has done to an answer.

Leaving training record i out moves a minimum of the mean loss by F^-1 g_i / m, to first order, and so raises the loss
of query j by

    S_ji = q_j . F^-1 g_i / m                F = damping I + G^T G / m,  K = G G^T,  X = G Q^T
    S^T  = (m damping I + K)^-1 X            empirical Fisher, by push-through: no gradient is ever formed
    S^T  = (J Q^T - (H J^T)^T (m damping I + H H^T)^-1 H Q^T) / (m damping)        H: rows of drawn labels (Woodbury)

g_i, row i of G (or of J, where F is made of other rows), and q_j are gradients of losses summed over target tokens.
Self-influence is S of the training records on themselves. In place of this F, which has the rank of the records, may
stand its K-FAC or EK-FAC (solve/kfac.py): every weight apart, but of full rank; gradients are then formed by tiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fastunlearn.audit.charts import Bars, bar_chart
from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.blocks import BLOCKS, Blocks, make_blocks
from fastunlearn.operators.gram import gram_blocks
from fastunlearn.operators.parameters import Choice, choose_parameters
from fastunlearn.operators.sample_gradients import KINDS, SampleGradients
from fastunlearn.operators.samples import Sample, to_samples
from fastunlearn.progress import Progress
from fastunlearn.solve.kfac import KFAC
from fastunlearn.solve.sample_space import SampleSpace, check_damping

__all__ = ["Influence", "influence"]

CURVATURES = ("exact", "kfac", "ekfac")


@dataclass(frozen=True)
class Influence:
    """``scores`` (queries, training samples) float64: by how many nats the summed loss of a query would rise if that
    sample were left out; above 0 it helped. ``self_influence`` (samples,): the same of each sample on itself; large
    for what was memorised. ``damping``: of F; None where each weight has its own."""

    scores: Tensor
    self_influence: Tensor
    damping: float | None

    def top(self, query: int, k: int = 10) -> list[tuple[int, float]]:
        """The ``k`` samples that matter most to a query, as (number, score), by the size of the score."""
        row = self.scores[query]
        order = row.abs().argsort(descending=True)[:k].tolist()
        return [(i, float(row[i])) for i in order]

    def svg(self, query: int = 0, k: int = 12) -> str:
        """The ``k`` strongest scores of a query as bars, a whole SVG file."""
        found = sorted(self.top(query, k), key=lambda one: -one[1])
        bars = Bars([f"sample {i}" for i, _ in found], [score for _, score in found])
        return bar_chart(bars, title=f"Influence on query {query}", axis="rise of its loss without the sample, nats")


def influence(
    model: nn.Module,
    train: Iterable[Mapping | Sample] | Mapping,
    query: Iterable[Mapping | Sample] | Mapping,
    *,
    damping: float | None,
    kind: str = "empirical",
    curvature: str = "exact",
    blocks: str = "model",
    params: Choice = None,
    memory: int | str = "8GB",
    batch_size: int = 32,
    pad_token_id: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Influence:
    """Scores of every training sample for every query, at the model's present weights.

    ``train``: what the model was trained on, all of it or a part that stands for it; ``query``: batches as the model
    takes them, or encoded samples; each row is one. ``damping``: above 0; take what the training regularised with, or
    a hundredth of the mean eigenvalue of F. ``kind``: "empirical" takes the training labels for F, "sampled" draws
    them (the Gauss-Newton matrix in the mean; one more capture, and better where the model fits its records almost
    exactly). ``curvature``: "exact" is F of these samples as it is; "kfac" and "ekfac" take a Kronecker product for
    each linear layer and the diagonal for other weights. They also take ``damping=None``: a tenth of the mean
    eigenvalue of each weight's own block. ``blocks`` (of the exact one): "model", "layer" or "tensor". ``params``,
    ``memory``, ``batch_size``: as elsewhere.

    Exact: one capture pass over all samples, Gram matrices of m x m and m x n, and one Cholesky factor; m x m numbers
    in float64 are kept. Kronecker: the factors of each layer and their eigenvectors, and all gradients formed, a tile
    at a time; nothing of m x m. Raises InvalidInputError and NotPositiveDefiniteError.
    """
    _check(kind, curvature, blocks, damping)
    chosen = choose_parameters(model, params)
    shared: dict[str, Any] = {
        "pad_token_id": pad_token_id, "parameters": chosen, "memory": memory, "batch_size": batch_size,
        "progress": progress,
    }  # fmt: skip
    records = to_samples(train)
    own = SampleGradients(model, records, label="training samples", **shared)
    asked = SampleGradients(model, to_samples(query), label="queries", **shared)
    drawn = own
    if kind == "sampled":
        drawn = SampleGradients(model, records, kind="sampled", seed=seed, plan=own.plan, **shared)
    if curvature == "exact":
        return _exact(own, drawn, asked, check_damping(damping), make_blocks(list(chosen), blocks))
    factors = KFAC(drawn, damping, corrected=curvature == "ekfac")
    if drawn is not own:
        drawn.forget_factors()
    scores, mine = factors.products(asked, own)
    return Influence(scores / len(own), mine / len(own), factors.damping)


def _check(kind: str, curvature: str, blocks: str, damping: float | None) -> None:
    if kind not in KINDS:
        raise InvalidInputError(f"kind={kind!r} is unknown; use one of {', '.join(KINDS)}")
    if curvature not in CURVATURES:
        raise InvalidInputError(f"curvature={curvature!r} is unknown; use one of {', '.join(CURVATURES)}")
    if blocks not in BLOCKS:
        raise InvalidInputError(f"blocks={blocks!r} is unknown; use one of {', '.join(BLOCKS)}")
    if curvature != "exact" and blocks == "layer":
        raise InvalidInputError(
            f"blocks='layer' with curvature={curvature!r}: Kronecker factors take every weight apart; leave blocks out"
        )
    if curvature == "exact" and damping is None:
        raise InvalidInputError("damping=None is for curvature='kfac' and 'ekfac'; give the exact one a number above 0")


def _exact(
    own: SampleGradients, drawn: SampleGradients, asked: SampleGradients, damping: float, blocks: Blocks
) -> Influence:
    """By the Fisher of ``drawn`` in sample space."""
    m = len(own)
    if drawn is own:
        grams = gram_blocks([own, asked], [(0, 0), (0, 1)], blocks)
        space = SampleSpace(grams[0, 0], damping, m)
        scores, mine = space.inverse(grams[0, 1]), space.inverse(grams[0, 0])
    else:
        grams = gram_blocks([drawn, own, asked], [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2)], blocks)
        space = SampleSpace(grams[0, 0], damping, m)

        def between(b: int) -> Tensor:
            return (grams[1, b] - grams[0, 1].mT @ space.inverse(grams[0, b])) / (m * space.damping)

        scores, mine = between(2), between(1)
    return Influence(scores.sum(0).T, mine.sum(0).diagonal().clone(), space.damping)
