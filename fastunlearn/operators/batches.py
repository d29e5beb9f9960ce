"""Batches that can be walked again and again, and how much each stands for in the whole.

The loss over all batches is ``sum_b w_b loss_b / W``. Without a loss of the user's, ``loss_b`` is the mean over the
batch's n_b target tokens and ``w_b = n_b``, so that the whole is a sum over tokens, divided by

    reduction "mean":        W = number of target tokens of all batches (for one batch: model(**batch).loss)
    reduction "samples":     W = number of sequences of all batches
    reduction "sum":         W = 1
    reduction "sample-mean": loss_b is the mean over sequences of each one's mean over its own target tokens, w_b the
                             number of sequences that have any, and W the number of these in all batches
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops._recording import recording

__all__ = ["REDUCTIONS", "Batches", "Part"]

REDUCTIONS = ("mean", "samples", "sum", "sample-mean")
IGNORED = -100

Loss = Callable[[nn.Module, Mapping], Tensor]


class Part(NamedTuple):
    """One batch on the model's device. ``weight``: w_b. ``samples``: its number of sequences. ``place``: its number.
    ``share``: 1 / W where W is known beforehand, else 1. ``filler``: it only keeps step with other processes.
    ``token_weights``: (sequences, 1), where loss_b weighs the target tokens of a sequence so, instead of all alike."""

    batch: dict
    weight: float
    samples: int
    place: int
    share: float = 1.0
    filler: bool = False
    token_weights: Tensor | None = None

    @property
    def factor(self) -> float:
        """What the batch's mean loss is multiplied with."""
        return self.weight * self.share


def _tensor(value: object) -> object:
    """Lists of numbers (rows of a data set) as tensors; anything that makes no tensor stays."""
    if isinstance(value, list):
        try:
            return torch.tensor(value)
        except (TypeError, ValueError):
            return value
    return value


class Batches:
    """``batches``: any iterable that starts afresh each time (a list, a DataLoader, a data set) of mappings as the
    model takes them; or one such mapping. A row without a batch axis is a batch of one.

    ``loss(model, batch)``: a scalar, or None for the mean over target tokens (labels stand at the token's own place;
    -100 and the first place of a row are no targets). ``weight(batch)``: w_b for a loss of the user's, default the
    number of samples (first axis of input_ids, of labels, or else of the first tensor), under reduction "sum" always 1.
    Raises InvalidInputError.
    """

    def __init__(
        self,
        batches: Iterable[Mapping] | Mapping,
        device: torch.device,
        *,
        loss: Loss | None = None,
        reduction: str = "mean",
        weight: Callable[[Mapping], float] | None = None,
    ) -> None:
        known = REDUCTIONS if loss is None else ("mean", "sum")
        if reduction not in known:
            raise InvalidInputError(f"reduction={reduction!r}: use one of {', '.join(known)}")
        if weight is not None and loss is None:
            raise InvalidInputError("batch_weight goes with loss=; without a loss, batches weigh by target tokens")
        if loss is not None and not callable(loss):
            raise InvalidInputError(f"loss is a {type(loss).__name__}; it must be a function loss(model, batch)")
        if isinstance(batches, Mapping):
            batches = [batches]
        if not isinstance(batches, Iterable) or isinstance(batches, Tensor | str):
            raise InvalidInputError(f"batches is a {type(batches).__name__}: give a list or DataLoader of mappings")
        if iter(batches) is batches:
            raise InvalidInputError(
                f"batches is a {type(batches).__name__}, which can be walked only once, and every product walks it "
                f"again: give list(batches), or a DataLoader"
            )
        self._batches, self._device, self._loss = batches, device, loss
        self.reduction, self._weight = reduction, weight
        self._counted: dict[int, float] = {}
        first = next(iter(batches), None)
        if first is None:
            raise InvalidInputError("batches is empty: give at least one batch")
        self._prepare(first, 0)

    def __iter__(self) -> Iterator[Part]:
        share = self._share()
        for i, batch in enumerate(self._batches):
            part = self._prepare(batch, i)
            yield part._replace(
                batch={n: v.to(self._device) if isinstance(v, Tensor) else v for n, v in part.batch.items()},
                share=share or 1.0,
            )

    def _share(self) -> float | None:
        """1 / W, for batches that lie in a list; for others it is known only after the walk."""
        if not isinstance(self._batches, list | tuple):
            return None
        parts = [self._prepare(batch, i) for i, batch in enumerate(self._batches)]
        return 1.0 / self._total(sum(part.weight for part in parts), sum(part.samples for part in parts))

    def _prepare(self, batch: object, i: int) -> Part:
        """The batch, checked and weighed, where it is."""
        if not isinstance(batch, Mapping):
            raise InvalidInputError(
                f"batches[{i}] is a {type(batch).__name__}; it must be a mapping of the model's arguments, such as "
                f"{{'input_ids': ..., 'attention_mask': ..., 'labels': ...}}"
            )
        values = {name: _tensor(value) for name, value in batch.items()}
        ids = values.get("input_ids")
        if isinstance(ids, Tensor) and ids.dim() == 1:
            values = {name: v[None] if isinstance(v, Tensor) else v for name, v in values.items()}
        samples = _sequences(values)
        if samples is None:
            raise InvalidInputError(f"batches[{i}] holds no tensor; it has {', '.join(map(repr, values)) or 'nothing'}")
        if self._loss is None:
            counts = target_tokens(values, f"batches[{i}]").double()
            if self.reduction != "sample-mean":
                return Part(values, self._weigh(counts.sum(), i), samples, i)
            some = counts > 0
            each = torch.where(some, 1.0 / (counts.clamp(min=1) * some.sum().clamp(min=1)), 0.0)
            return Part(values, self._weigh(some.sum(), i), samples, i, token_weights=each[:, None].to(self._device))
        weight = 1.0 if self.reduction == "sum" else float(samples)
        return Part(values, weight if self._weight is None else float(self._weight(values)), samples, i)

    def _weigh(self, count: Tensor, i: int) -> float:
        """The number, for batch i. While a CUDA graph is recorded it cannot be read: it is that of the walk before.
        Raises InvalidInputError where there was none."""
        if not recording(count):
            self._counted[i] = float(count)
        if i not in self._counted:
            raise InvalidInputError(
                f"batches[{i}] was not counted before a CUDA graph is recorded: make one product first, as a warm-up"
            )
        return self._counted[i]

    def rest(self, weights: float, samples: int) -> float:
        """What a sum of ``factor`` times each batch's part is still to be divided by. Raises InvalidInputError where
        there is nothing to average."""
        total = self._total(weights, samples)
        return 1.0 if isinstance(self._batches, list | tuple) else total

    def _total(self, weights: float, samples: int) -> float:
        """W."""
        if weights <= 0:
            raise InvalidInputError(
                "batches hold no target token: every label is -100, or stands in the first place of its row"
                if self._loss is None
                else "batch_weight gives no positive sum over the batches"
            )
        return {"samples": float(samples), "sum": 1.0}.get(self.reduction, weights)


def _sequences(batch: Mapping) -> int | None:
    """How many sequences: what tokens and labels say, and only without them the first tensor. Positions and masks may
    be one row for all."""
    first = [batch.get("input_ids"), batch.get("labels"), *batch.values()]
    return next((v.shape[0] for v in first if isinstance(v, Tensor) and v.dim()), None)


def target_tokens(batch: Mapping, name: str) -> Tensor:
    """How many tokens of each row are predicted: labels other than -100, but for the first."""
    labels = batch.get("labels")
    if not isinstance(labels, Tensor):
        raise InvalidInputError(
            f"{name} has no 'labels': add them (for all tokens: labels = input_ids, with -100 where attention_mask is "
            f"0), or give loss=, a function loss(model, batch)"
        )
    if labels.dtype != torch.int64 or labels.dim() != 2:
        raise InvalidInputError(
            f"{name}['labels'] has shape {tuple(labels.shape)} and dtype {labels.dtype}; it must be "
            f"(samples, tokens) of torch.int64"
        )
    return (labels[:, 1:] != IGNORED).sum(1)
