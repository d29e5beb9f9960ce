"""The inner parts of LowRankFisher (low_rank_fisher.py): set-up, where its gradients come from, and the factor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.base import LinearOperator
from fastunlearn.operators.blocks import make_blocks
from fastunlearn.operators.budget import pass_bytes
from fastunlearn.operators.model_state import check_finite, widened
from fastunlearn.operators.parameters import choose_parameters
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.operators.samples import Sample, sample_digest
from fastunlearn.operators.sharded import ShardedSpace
from fastunlearn.operators.sharded_gradients import ShardedGradients, in_step_samples
from fastunlearn.operators.shards import Shards
from fastunlearn.operators.space import Space
from fastunlearn.operators.spread import SpreadGradients
from fastunlearn.operators.state import PassState
from fastunlearn.resources import parse_memory

from .fingerprint import fingerprint, versions
from .fixed_blocks import FixedBlocksFisher
from .rows import KINDS, Rows, draw_rows
from .sample_space import SampleSpaceFisher, check_damping

__all__ = ["FisherParts"]

MOST_PER_BATCH = 32
PRECISIONS = ("model", "float64", "bfloat16")


class FisherParts(LinearOperator):
    """LowRankFisher without its public methods; see there."""

    def _prepare(self, model, damping, blocks, kind, memory, params, pad_token_id, seed, progress) -> None:
        self.damping = check_damping(damping)
        if kind not in KINDS:
            raise InvalidInputError(f"kind={kind!r} is unknown; use one of {', '.join(KINDS)}")
        self._shards = Shards.of(model)
        self.parameters = choose_parameters(model, params)
        self.model, self.kind = model, kind
        if self._shards is None:
            super().__init__(Space(self.parameters))
            check_finite(self.parameters)
        else:
            self._shard(blocks)
        if self._precision not in PRECISIONS or (self._precision == "bfloat16" and self.dtype == torch.float64):
            raise InvalidInputError(
                f"precision={self._precision!r} must be one of {', '.join(PRECISIONS)} (float64 models: not bfloat16)"
            )
        if self._precision == "float64":
            self.space.dtype = torch.float64
        self.blocks = blocks if type(blocks) is int else make_blocks(list(self.parameters), blocks)
        self._memory, self._pad, self._seed, self._progress = parse_memory(memory), pad_token_id, seed, progress
        self._versions, self._widened = versions(self._local()), False
        self._rows: Rows | None = None
        self._fisher: SampleSpaceFisher | FixedBlocksFisher | None = None

    def _shard(self, blocks: str | int) -> None:
        """Sets up a model of FSDP2: see operators/shards.py."""
        other = type(blocks) is int or self._state or self._precision == "float64"
        if self.kind != "empirical" or other:
            raise InvalidInputError(
                "model is sharded (fully_shard): this needs kind='empirical', blocks='model', 'layer' or 'tensor', no "
                "state, and precision='model' or 'bfloat16'"
            )
        if self._group is not None and set(dist.get_process_group_ranks(self._group)) != set(
            dist.get_process_group_ranks(self._shards.group)
        ):
            raise InvalidInputError("group: a sharded model has its own group, that of its mesh; leave group out")
        self._group, self.model = self._shards.group, self._shards.shell
        super().__init__(ShardedSpace(self.parameters, self._shards))
        self._shards.check_finite(self.parameters)

    def _local(self) -> dict[str, Tensor]:
        """The parameters, or of sharded ones what is here."""
        if self._shards is None:
            return self.parameters
        return {name: p.to_local() for name, p in self.parameters.items()}

    def _choose_batch(self, samples: list[Sample], wanted: int | None) -> int:
        if wanted is not None and (isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1):
            raise InvalidInputError(f"batch_size={wanted!r} must be an integer of at least 1, or None")
        self._batch_size = 1
        each, limit = pass_bytes(self._gradients(samples, None), False), self._memory // 2
        most = max(1, min(MOST_PER_BATCH, limit // each))
        if each * (wanted or most) > limit:
            longest = max(s.input_ids.numel() for s in samples)
            mend = f"batch_size={most} would fit" if each <= limit else f"give memory at least {2 * each / 1e9:.2g}GB"
            raise InvalidInputError(
                f"memory: a batch of {wanted or most} samples of {longest} tokens takes about "
                f"{each * (wanted or most) / 1e9:.2g} GB and half of {self._memory / 1e9:.2g} GB is for batches; {mend}"
            )
        if self._shards is not None:
            return int(-self._shards.most(-(wanted or most)))  # the same number of batches everywhere
        return wanted or most

    @contextmanager
    def _passes(self) -> Iterator[None]:
        if self._precision != "float64" or self._widened:
            yield
            return
        with widened(self.model):
            self._widened = True
            try:
                yield
            finally:
                self._widened = False

    def _draw(self, samples: list[Sample]) -> Rows:
        self._seed += 1  # samples that are added later get labels of their own
        return draw_rows(
            self.model, samples, self.kind, pad_token_id=self._pad, batch_size=self._batch_size, seed=self._seed - 1
        )

    def _gradients(self, samples: list[Sample], weights: Tensor | None) -> SampleGradients:
        return SampleGradients(
            self.model, samples, pad_token_id=self._pad, plan=self._plan, batch_size=self._batch_size,
            memory=self._memory, progress=self._progress, row_weights=weights,
            captures=torch.bfloat16 if self._precision == "bfloat16" else None,
        )  # fmt: skip

    def _of_rows(self, rows: Rows) -> SampleGradients | ShardedGradients:
        if self._shards is not None:
            padded, weights = in_step_samples(rows.samples, self._shards)
            return ShardedGradients(self._gradients(padded, weights), len(rows), self.space)
        return self._of_rows_here(rows)

    def _of_rows_here(self, rows: Rows) -> SampleGradients:
        """Of a model that is whole in this process."""
        return self._gradients(rows.samples, rows.weights if self.kind == "ggn" else None)

    def _factor(self, rows: Rows, gram: Tensor | None) -> None:
        gradients, common = self._of_rows(rows), {"samples": rows.count, "signs": rows.signs}
        if type(self.blocks) is int:
            before = self._fisher if isinstance(self._fisher, FixedBlocksFisher) else None
            fisher = FixedBlocksFisher(
                gradients, self.damping, width=self.blocks, space=self.space, storage=self._storage, path=self._path,
                before=before, **common,
            )  # fmt: skip
        else:
            state = None
            if self._state is not None and gram is None:
                state = PassState(self._state, self._interval, self._key(rows, "gram"))
                gradients.state = lambda c: PassState(
                    f"{os.fspath(self._state)}.gradient", self._interval, self._key(rows, c.tolist())
                )
            if self._shards is not None:
                common = {"samples": len(gradients), "signs": None}
            elif self._group is not None:
                gradients = SpreadGradients(gradients, self._group)
                common = {"samples": len(gradients), "signs": None}
            fisher = SampleSpaceFisher(gradients, self.damping, blocks=self.blocks, gram=gram, state=state, **common)
        self._rows, self._fisher = rows, fisher  # only now: a refusal leaves the object as it was

    def _key(self, rows: Rows, what: object) -> list:
        """What a pass depends on, to the bit."""
        labels = [sample_digest(sample) for sample in rows.samples]
        settings = [self.kind, str(self.blocks), self._memory, self._batch_size, torch.get_num_threads()]
        return [fingerprint(self.parameters), labels, rows.weights.tolist(), settings, what]

    def _held(self) -> Rows:
        """The rows of the Fisher that ``_ready`` gives."""
        assert self._rows is not None
        return self._rows

    def _ready(self) -> SampleSpaceFisher | FixedBlocksFisher:
        if self._fisher is None:
            raise InvalidInputError("this Fisher was purged by forget_personal_data(): make a new one from its samples")
        if not self._widened and versions(self._local()) != self._versions:
            raise InvalidInputError("the model's weights have changed since this Fisher was made: make a new one")
        return self._fisher
