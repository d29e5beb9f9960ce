"""A fair draw from all *different* records that training has seen, in one pass and without keeping the others.

Every record has a number that depends on its content and the seed alone (a keyed hash); the records with the k smallest
numbers are the draw. So a record counts once, in however many epochs it comes, the order does not matter, and the draws
of several processes join into the draw of all.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Mapping

import torch

from fastunlearn.data.encode import Encoded
from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.samples import Row, Sample, sample_digest, to_samples

__all__ = ["Reservoir", "rows_of"]


def rows_of(batch: Mapping) -> list[Sample]:
    """The rows of a training batch that have a token to score, without padding on either side. Raises InvalidInputError
    where a row holds several sequences that do not see each other."""
    _check_positions(batch)
    names = ("input_ids", "labels", "attention_mask")
    batch = {name: batch[name].cpu() for name in names if batch.get(name) is not None}
    found = (_stripped(sample) for sample in to_samples(batch))
    return [sample for sample in found if bool((sample.labels[1:] != -100).any())]


def _check_positions(batch: Mapping) -> None:
    """A record is read on its own, its tokens counted one by one. Positions that start again within a row also cut the
    attention there, which a record could not say."""
    positions, mask = batch.get("position_ids"), batch.get("attention_mask")
    if positions is None:
        return
    jumps = positions.diff(dim=-1) != 1
    if mask is not None and mask.dim() == 2:
        jumps = jumps & (mask[:, 1:] != 0).to(jumps.device) & (mask[:, :-1] != 0).to(jumps.device)
    if bool(jumps.any()):
        raise InvalidInputError(
            "KeepFisherCallback: position_ids start again within a row (sequences packed without padding), so that a "
            "row is no record: train with a collator that pads, or keep the Fisher after training, with "
            "fastunlearn.keep_fisher"
        )


def _stripped(sample: Sample) -> Sample:
    """Without the padding on the left, where that is all that its mask says (positions count from the first token)."""
    if not isinstance(sample, Row):
        return sample
    mask = sample.extra["attention_mask"]
    start = int(torch.nonzero(mask).flatten()[0]) if bool(mask.any()) else 0
    if not bool(mask[start:].all()):
        return sample
    return Encoded(sample.input_ids[start:], sample.labels[start:])


class Reservoir:
    """At most ``size`` records (None: all), a uniform draw from the different ones that were added."""

    def __init__(self, size: int | None, seed: int):
        self.size, self.seed = size, seed
        self._heap: list[tuple[int, str]] = []  # the largest number first, by its negative
        self._held: dict[str, Sample] = {}
        self._dropped = False

    def __len__(self) -> int:
        return len(self._held)

    def add(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            digest = sample_digest(sample)
            if digest in self._held:
                continue
            number = int.from_bytes(hashlib.sha256(f"{self.seed} {digest}".encode()).digest()[:8], "big")
            full = self.size is not None and len(self._held) >= self.size
            if full and number >= -self._heap[0][0]:
                self._dropped = True
                continue
            heapq.heappush(self._heap, (-number, digest))
            self._held[digest] = sample
            if full:
                del self._held[heapq.heappop(self._heap)[1]]
                self._dropped = True

    @property
    def complete(self) -> bool:
        """Whether every record that was added is still here."""
        return not self._dropped

    def join(self, other: Reservoir) -> None:
        """Adds what another process drew."""
        self.add(other.samples())
        self._dropped |= other._dropped

    def samples(self) -> list[Sample]:
        """The records, in an order that depends on them and the seed alone."""
        return [self._held[digest] for _, digest in sorted(self._heap, reverse=True)]
