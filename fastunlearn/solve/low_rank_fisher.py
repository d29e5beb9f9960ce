"""The low-rank Fisher of a model, for users: F of any batches, solved in sample space.

    F = damping * I + (1/m) sum_i g_i g_i^T        g_i: gradient of sample i's loss, summed over its target tokens

The formulas are in :mod:`.sample_space`; this file checks arguments, holds the samples, and reads and writes
vectors in every form.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from fastunlearn.errors import InvalidInputError, NotPositiveDefiniteError
from fastunlearn.operators.gram import gram_blocks
from fastunlearn.operators.parameters import Choice
from fastunlearn.operators.plan import make_plan
from fastunlearn.operators.samples import Sample, to_samples
from fastunlearn.operators.sharded_gradients import sharded_plan
from fastunlearn.operators.space import FORMS, Form
from fastunlearn.progress import Progress

from . import fisher_file
from .fisher_parts import FisherParts
from .fixed_blocks import FixedBlocksFisher
from .rows import Rows

__all__ = ["LowRankFisher"]


Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")
Method = Callable[Concatenate["LowRankFisher", Arguments], Answer]


def _in_precision(method: Method[Arguments, Answer]) -> Method[Arguments, Answer]:
    """The method with the model's weights in the precision that was asked for."""

    @wraps(method)
    def run(self: LowRankFisher, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
        self._ready()
        with self._passes():
            return method(self, *args, **kwargs)

    return run


class LowRankFisher(FisherParts):
    """``LowRankFisher(model, batches, damping)``: F above at the model's present weights, factored once.

    ``batches``: mappings as the model takes them, with ``input_ids`` and ``labels`` (B, T) int64, or encoded samples;
    each row is a sample. ``damping``: above 0, in squared nats per squared unit of the weights. ``blocks``: curvature
    between them counts as zero: "model" (one block), "layer", "tensor", or a number of weights (WoodFisher's blocks: G
    is stored then, as ``storage`` "float32", "bfloat16" or "int8", in memory or in a new file ``path``).

    ``kind``: "empirical" takes the samples' own labels; "sampled" labels drawn from the model (its mean is the true
    Fisher, which is the Gauss-Newton matrix of cross-entropy); "ggn" that matrix exactly, V rows for each target
    token, so for small vocabularies only. ``memory``: for factors of gradients and tiles of them (the model, and the
    m x m matrices, come on top). ``params``: names, patterns or parameters, default all that require a gradient.
    ``batch_size``: rows in one pass, default as many as fit. ``seed``: of drawn labels.

    ``precision`` of the samples' gradients: "model", as they come; "float64": passes with the weights widened for the
    time, and answers in float64, for blocks with about as few weights as there are samples (norms, biases), whose
    solves magnify the last digits; "bfloat16": inputs and gradients of layers, of which the Gram is made, are kept in
    half the memory, for an error of about 1e-3 in K.

    ``state``: a file that long passes write what they have to, every ``state_interval`` seconds; a run that was killed
    and is started again with the same arguments takes it up and ends with the same bits. ``group``: a process group of
    torch.distributed (``torch.distributed.group.WORLD``) whose processes each give their own batches; F is that of
    all of them, in the order of ranks. A model of FSDP2 (``fully_shard``) has its group already: every process gives
    its own batches, and vectors and answers are DTensors laid out as the parameters, or flat and whole.

    Vectors are flat ``(P,)``, ``(P, k)``, lists, tuples or dicts, as for all operators; answers have the same form, in
    ``dtype``. ``F @ v`` is the product. The weights must stay as they are while this object is in use.

    Raises InvalidInputError (arguments, no sample, a gradient that is not finite, memory too small; each names the
    setting that mends it) and NotPositiveDefiniteError (rounding has eaten the damping).
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Mapping | Sample] | Mapping,
        damping: float,
        *,
        blocks: str | int = "model",
        kind: str = "empirical",
        memory: int | str = "8GB",
        params: Choice = None,
        pad_token_id: int = 0,
        batch_size: int | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        storage: str | None = None,
        path: str | os.PathLike | None = None,
        state: str | os.PathLike | None = None,
        state_interval: float = 60.0,
        group: Any = None,
        precision: str = "model",
    ):
        self._state, self._interval, self._group = state, state_interval, group
        self._storage, self._path = storage, None if path is None else os.fspath(path)
        self._precision = precision
        self._prepare(model, damping, blocks, kind, memory, params, pad_token_id, seed, progress)
        samples = to_samples(batches)
        with self._passes():
            if self._shards is None:
                self._plan = make_plan(model, self.parameters, samples, pad_token_id=pad_token_id)
            else:
                self._plan = sharded_plan(self._shards, list(self.parameters), samples, pad_token_id)
            self._batch_size = self._choose_batch(samples, batch_size)
            self._factor(self._draw(samples), None)

    @property
    def samples(self) -> int:
        """m: how many samples F is the mean of."""
        return self._ready().samples

    @property
    def gram(self) -> Tensor:
        """K by block: (blocks, rows, rows) float64."""
        return self._ready().gram

    @_in_precision
    def matmat(self, vectors: dict[str, Tensor]) -> dict[str, Tensor]:
        """``F v`` for k vectors by parameter name, (k, *shape)."""
        return self._ready().apply_many(vectors)

    @_in_precision
    def solve(self, v: Any) -> Any:
        """``F^-1 v`` by Woodbury, in the form of v. Where v = G^T c, :meth:`solve_samples` keeps more digits."""
        fisher = self._ready()
        vectors, form = self.space.read(v)
        return self.space.write(fisher.solve_many(vectors), form)

    @_in_precision
    def solve_samples(self, c: Tensor, *, form: str = "flat") -> Any:
        """``F^-1 G^T c`` by push-through: one weighted backward pass. c (m,), or (m, k) for k of them: a weight for
        each sample's gradient (with ``kind="sampled"``, of its drawn labels). ``form``: "flat", "list", "tuple" or
        "dict". Raises InvalidInputError, also for ``kind="ggn"``, whose rows are not samples."""
        fisher = self._ready()
        if self.kind == "ggn":
            raise InvalidInputError("solve_samples needs kind='empirical' or 'sampled'; with kind='ggn' use solve(v)")
        if form not in FORMS:
            raise InvalidInputError(f"form={form!r} is unknown; use one of {', '.join(FORMS)}")
        rows = len(fisher.gradients)
        if not isinstance(c, Tensor) or c.dim() not in (1, 2) or c.shape[0] != rows:
            shape = tuple(c.shape) if isinstance(c, Tensor) else type(c).__name__
            raise InvalidInputError(f"c is {shape}; it must be ({rows},) or ({rows}, k): one weight per sample")
        if not bool(torch.isfinite(c).all()):
            raise InvalidInputError("c holds NaN or infinity")
        single = c.dim() == 1
        return self.space.write(fisher.solve_samples_many(c[:, None] if single else c), Form(form, single))

    @_in_precision
    def power(self, p: float, v: Any, *, floor: float = 0.0) -> Any:
        """``F^p v`` for any real p, in the form of v; eigenvalues of F below ``floor`` count as ``floor``."""
        fisher = self._ready()
        vectors, form = self.space.read(v)
        return self.space.write(fisher.power_many(float(p), vectors, floor), form)

    def logdet(self) -> float:
        """``log det F``."""
        return self._ready().logdet()

    @_in_precision
    def diag(self, *, form: str = "flat") -> Any:
        """The diagonal of F, in the form named."""
        found = {name: one[None].to(self.dtype) for name, one in self._ready().diagonal().items()}
        return self.space.write(found, Form(form, True))

    @_in_precision
    def add(self, samples: Iterable[Mapping | Sample] | Mapping) -> None:
        """More samples: F becomes the mean over the old and the new ones. Only products with new rows are computed."""
        self._ready()
        self._alone("add")
        self._extend(self._draw(to_samples(samples)))

    @_in_precision
    def remove(self, samples: Iterable[Mapping | Sample] | Mapping) -> None:
        """Fewer samples: F becomes the mean over those left. Rows of F go without any pass. Samples that were no rows
        of it are subtracted, ``- g g^T``; raises NotPositiveDefiniteError where what is left is not positive
        definite. After any refusal F is as it was."""
        fisher, rows = self._ready(), self._held()
        self._alone("remove")
        samples = to_samples(samples)
        if len(samples) >= rows.count:
            raise NotPositiveDefiniteError(
                f"remove: F is the mean of {rows.count} samples, and without {len(samples)} nothing is left of it"
            )
        keep, strangers = rows.find(samples)
        left = rows.select(keep, rows.count - len(samples) + len(strangers))
        gram = None if isinstance(self.blocks, int) else fisher.gram[:, keep[:, None], keep]
        self._factor_or_extend(left, gram, self._draw(strangers).negative() if strangers else None)

    def _alone(self, what: str) -> None:
        if self._group is not None:
            raise InvalidInputError(f"{what} works in one process: make the Fisher anew over the group's samples")

    def _extend(self, new: Rows) -> None:
        gram = None if isinstance(self.blocks, int) else self._ready().gram
        self._factor_or_extend(self._held(), gram, new)

    def _factor_or_extend(self, old: Rows, gram: Tensor | None, new: Rows | None) -> None:
        if new is None or gram is None or isinstance(self.blocks, int):  # stored gradients are taken anew
            return self._factor(old if new is None else old + new, gram)
        sides = [self._of_rows_here(old), self._of_rows_here(new)]
        found = gram_blocks(sides, [(0, 1), (1, 1)], self.blocks)
        upper = torch.cat([gram, found[0, 1]], 2)
        lower = torch.cat([found[0, 1].mT, found[1, 1]], 2)
        return self._factor(old + new, torch.cat([upper, lower], 1))

    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Writes one safetensors file, whole or not at all: K, and the samples' tokens, which a solve needs. It holds
        personal data where they do. Raises OutputError."""
        self._alone("save")
        fisher_file.save(self, path, overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike, model: nn.Module, **options: Any) -> LowRankFisher:
        """What :meth:`save` wrote, for the same model with the same weights; ``options``: memory, progress.
        Raises InvalidInputError for another model, other weights, or a damaged file."""
        return fisher_file.load(cls, path, model, **options)

    def forget_personal_data(self) -> None:
        """Drops all that was derived from the samples: their tokens, K, its factors, kept factors of gradients, stored
        gradients with their file, and the file ``state``. The object cannot be used afterwards. Files from
        :meth:`save` are the caller's to delete."""
        if self._fisher is not None:
            self._fisher.gradients.forget_factors()
        if isinstance(self._fisher, FixedBlocksFisher):
            self._fisher.explicit.stored.close()
        self._rows = self._fisher = None
        state = None if type(self.blocks) is int else self._state  # a file that no pass has written is not ours
        for file in () if state is None else (state, f"{os.fspath(state)}.gradient"):
            Path(file).unlink(missing_ok=True)
