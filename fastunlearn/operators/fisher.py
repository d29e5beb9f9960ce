"""F v: the Fisher matrix of a language model over all sequences of all batches.

    F = (1/W) sum_i g_i g_i^T,        F v = (1/W) G^T (G v)

g_i, row i of G, is the gradient of sequence i's negative log-likelihood, *summed* over its target tokens. W is the
number of sequences m by default. "empirical" takes the labels given; "sampled" draws every label from the model's own
prediction at that place (inputs stay as they are), so that the expectation of F is the Gauss-Newton matrix:
E F = GGN(reduction=the same). G is never formed: one dual forward gives G v, one weighted backward G^T (...).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastunlearn.errors import InvalidInputError

from .batches import IGNORED, Part
from .curvature import CurvatureOperator
from .forward import arguments, logits_in
from .parameters import Choice

__all__ = ["Fisher"]

KINDS = ("empirical", "sampled")
_STRIDE = 1_000_003  # more than there are batches, so that no two seeds share the draws of any
_TOKENS_AT_ONCE = 256  # rows of probabilities in float64 that exist at the same time


class Fisher(CurvatureOperator):
    """The Fisher matrix as a linear operator.

    ``kind``: "empirical" or "sampled"; ``seed`` for the latter. ``reduction``: W is the number of sequences
    ("samples"), of target tokens ("mean"), or 1 ("sum"). A sequence without targets counts as one with g = 0. The other
    arguments are those of CurvatureOperator; there is no ``loss``, as only a likelihood has a Fisher matrix.
    The labels of a sampled Fisher are drawn once; batches that come in another order afterwards are an error.

    >>> F = fu.Fisher(model, batches, kind="sampled", seed=0)
    >>> Fv = F @ v                                          # v: (P,), (P, k), a list, or a dict of tensors
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Mapping] | Mapping,
        *,
        kind: str = "empirical",
        seed: int = 0,
        params: Choice = None,
        reduction: str = "samples",
        vectors_at_once: int = 16,
        allow_unused: bool = False,
        memory: str | int = "auto",
    ) -> None:
        if kind not in KINDS:
            raise InvalidInputError(f"kind={kind!r}: use one of {', '.join(KINDS)}")
        if reduction == "sample-mean":
            raise InvalidInputError("reduction='sample-mean' is for Hessian, GGN and gradient: use 'samples'")
        super().__init__(
            model, batches, None, params,
            reduction=reduction, vectors_at_once=vectors_at_once, allow_unused=allow_unused, memory=memory,
        )  # fmt: skip
        if kind == "sampled" and self.walk.shards is not None:
            raise InvalidInputError("kind='sampled' needs a model that is not sharded (fully_shard): use GGN, its mean")
        self.kind, self.seed = kind, seed
        self._drawn: dict[int, tuple[Tensor, Tensor]] = {}  # by the batch's place: its labels, and those drawn

    def accumulate(self, part: Part, tangents: dict[str, Tensor], out: dict[str, Tensor]) -> Any:
        batch = part.batch if self.kind == "empirical" else {**part.batch, "labels": self._labels(part)}
        _, nll_t, _ = self.walk.engine.token_jvp(batch, tangents)
        coefficients = nll_t.to(self.dtype).sum(-1, keepdim=True) * part.share  # (k, samples, 1): G v / W
        return self.walk.engine.weighted_gradient(batch, coefficients, out)

    def _labels(self, part: Part) -> Tensor:
        """The drawn labels of a batch."""
        labels = part.batch["labels"]
        if part.place not in self._drawn:
            self._drawn[part.place] = labels, draw_labels(self.walk.model, part.batch, self.seed * _STRIDE + part.place)
        given, drawn = self._drawn[part.place]
        if not torch.equal(given, labels):
            raise InvalidInputError(
                "batches come in another order than when the labels were drawn: a sampled Fisher needs a fixed order, "
                "so build the DataLoader with shuffle=False"
            )
        return drawn


@torch.no_grad()
def draw_labels(model: nn.Module, batch: Mapping, seed: int) -> Tensor:
    """The batch's labels with every target token drawn from the model's prediction. Deterministic in ``seed``: the
    draws are made on the CPU from probabilities in float64."""
    logits = logits_in(model(**arguments(model, batch)), batch["labels"].shape)
    labels = batch["labels"].clone()
    targets = labels[:, 1:]  # a view: what is written to it stands in labels
    chosen = targets != IGNORED
    rows = logits[:, :-1][chosen]
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        torch.multinomial(some.double().softmax(-1).cpu(), 1, generator=generator).squeeze(1)
        for some in rows.split(_TOKENS_AT_ONCE)
    ]
    targets[chosen] = torch.cat(drawn).to(labels.device)
    return labels
