"""The rows of G: which sample each comes from, with which labels, weight and sign; and its file format."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fastunlearn.data.encode import Encoded
from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.exact_rows import gauss_newton_rows
from fastunlearn.operators.samples import Row, Sample, sample_digest
from fastunlearn.operators.targets import sample_labels

__all__ = ["KINDS", "Rows", "draw_rows"]

KINDS = ("empirical", "sampled", "ggn")


@dataclass(frozen=True)
class Rows:
    """``samples``: one for each row, labels as drawn. ``weights`` (rows,): of their losses. ``signs`` (rows,): -1 for
    a row taken out of curvature that it was no row of. ``digests``: of the sample each row comes from, before labels
    were drawn; rows with one digest and one ``owner`` (rows,) int64 are one sample's. ``count``: m, the samples."""

    samples: list[Sample]
    weights: Tensor
    signs: Tensor
    digests: list[str]
    owner: Tensor
    count: int

    def __len__(self) -> int:
        return len(self.samples)

    def __add__(self, other: Rows) -> Rows:
        owner = torch.cat([self.owner, other.owner + (int(self.owner.max()) + 1 if len(self) else 0)])
        return Rows(
            self.samples + other.samples, torch.cat([self.weights, other.weights]),
            torch.cat([self.signs, other.signs]), self.digests + other.digests, owner, self.count + other.count,
        )  # fmt: skip

    def negative(self) -> Rows:
        """The same rows, to be taken out."""
        return replace(self, signs=-self.signs, count=-self.count)

    def select(self, keep: Tensor, count: int) -> Rows:
        """The rows of the index ``keep``, standing for ``count`` samples."""
        chosen = keep.tolist()
        return Rows(
            [self.samples[i] for i in chosen], self.weights[keep], self.signs[keep],
            [self.digests[i] for i in chosen], self.owner[keep], count,
        )  # fmt: skip

    def find(self, samples: list[Sample]) -> tuple[Tensor, list[Sample]]:
        """The index of the rows that stay once ``samples`` are taken away, and those that were no rows of it. A
        sample that is there several times goes once for each time it is named."""
        owners: dict[str, list[int]] = {}
        for number, digest, sign in zip(self.owner.tolist(), self.digests, self.signs.tolist(), strict=True):
            known = owners.setdefault(digest, [])
            if sign > 0 and number not in known:
                known.append(number)
        gone, strangers = set(), []
        for sample in samples:
            left = owners.get(sample_digest(sample))
            if left:
                gone.add(left.pop())
            else:
                strangers.append(sample)
        stay = torch.tensor([number not in gone for number in self.owner.tolist()], dtype=torch.bool)
        return torch.nonzero(stay).flatten(), strangers

    def tensors(self) -> dict[str, Tensor]:
        """All of it as tensors by name, for a file (the digests are made anew on loading)."""
        lengths = torch.tensor([s.input_ids.numel() for s in self.samples])
        found = {
            "rows.lengths": lengths, "rows.weights": self.weights, "rows.signs": self.signs, "rows.owner": self.owner,
            "rows.input_ids": torch.cat([s.input_ids for s in self.samples]),
            "rows.labels": torch.cat([s.labels for s in self.samples]),
        }  # fmt: skip
        for i, sample in enumerate(self.samples):
            for name, tensor in getattr(sample, "extra", {}).items():
                found[f"rows.extra.{i}.{name}"] = tensor.cpu().contiguous()
        return found

    @classmethod
    def read(cls, tensors: dict[str, Tensor], digests: list[str], count: int) -> Rows:
        """What :meth:`tensors` gave."""
        lengths = tensors["rows.lengths"].tolist()
        extras: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("rows.extra."):
                number, _, own = name.removeprefix("rows.extra.").partition(".")
                extras.setdefault(int(number), {})[own] = tensor
        pairs = zip(tensors["rows.input_ids"].split(lengths), tensors["rows.labels"].split(lengths), strict=True)
        samples = [Row(*pair, extras[i]) if i in extras else Encoded(*pair) for i, pair in enumerate(pairs)]
        parts = (tensors[f"rows.{name}"] for name in ("weights", "signs", "owner"))
        weights, signs, owner = parts
        return cls(samples, weights, signs, digests, owner, count)


def draw_rows(
    model: nn.Module, samples: list[Sample], kind: str, *, pad_token_id: int, batch_size: int, seed: int
) -> Rows:
    """The rows that ``samples`` give under ``kind``. Raises InvalidInputError."""
    if kind not in KINDS:
        raise InvalidInputError(f"kind={kind!r} is unknown; use one of {', '.join(KINDS)}")
    digests = [sample_digest(sample) for sample in samples]
    owners = list(range(len(samples)))
    weights, rows = torch.ones(len(samples), dtype=torch.float64), samples
    if kind == "ggn":
        rows, weights, owners = gauss_newton_rows(model, samples, pad_token_id=pad_token_id)
    elif kind == "sampled":
        rows = sample_labels(model, samples, pad_token_id=pad_token_id, batch_size=batch_size, seed=seed)
    owner = torch.tensor(owners)
    return Rows(list(rows), weights, torch.ones(len(rows), dtype=torch.float64), [digests[i] for i in owners], owner,
                len(samples))  # fmt: skip
