"""``unlearn`` and ``keep_fisher``: the two calls most users need."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.model_state import check_finite
from fastunlearn.operators.state import PassState
from fastunlearn.operators.wrapped import bare_model
from fastunlearn.progress import Progress
from fastunlearn.resources import measured
from fastunlearn.solve import kept_fisher as _kept
from fastunlearn.solve.kept_fisher import KeptFisher

from .registry import Method, get_method
from .request import Records, Request, encode_set, most_tokens, pad_token, prepare
from .result import UnlearnResult
from .settings import make_settings
from .snapshot import restored_on_failure

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["keep_fisher", "unlearn"]


def _load_kept(method: Method, kept_fisher: object, model: nn.Module) -> KeptFisher | None:
    if not method.uses_kept:
        if kept_fisher is not None:
            raise InvalidInputError(f"kept_fisher: {method.name} does not use it; leave it out")
        return None
    if kept_fisher is None:
        raise InvalidInputError(
            f"kept_fisher is needed by {method.name}: make one at training time with keep_fisher, or "
            "`fastunlearn keep-fisher`"
        )
    if isinstance(kept_fisher, KeptFisher):
        return kept_fisher
    if isinstance(kept_fisher, str | os.PathLike):
        return KeptFisher.load(kept_fisher, next(model.parameters()).device)
    raise InvalidInputError(f"kept_fisher must be a KeptFisher or a path, got {type(kept_fisher).__name__}")


def _check_retain(method: Method, request: Request, settings: object) -> None:
    needed = method.uses_retain or getattr(settings, "retain_weight", 0) > 0
    if needed and not request.retain:
        raise InvalidInputError(f"retain is needed by {method.name}: give records that the model must keep")


class _Watcher:
    """Calls ``on_step`` and adds up the time that it takes, which is none of the method's."""

    def __init__(self, on_step: Callable[[dict], None]):
        self._on_step, self.seconds = on_step, 0.0

    def __call__(self, step: dict) -> None:
        started = time.perf_counter()
        try:
            self._on_step(step)
        finally:
            self.seconds += time.perf_counter() - started


def unlearn(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    forget: Records,
    retain: Records | None = None,
    held_out: Records | None = None,
    method: str = "fisher-removal",
    parameters: Sequence[str] | str | None = None,
    kept_fisher: KeptFisher | str | os.PathLike | None = None,
    seed: int = 0,
    max_length: int | None = None,
    truncate: bool = False,
    batch_size: int = 32,
    memory: int | str = "1GB",
    progress: Progress | None = None,
    on_step: Callable[[dict], None] | None = None,
    state: PassState | None = None,
    **options: Any,
) -> UnlearnResult:
    """Makes ``model`` forget the records of ``forget``, in place.

    ``model``: any causal language model whose output has ``.logits`` (transformers' convention), bare, with PEFT's
    adapters, or as ``Accelerator.prepare`` gives it. ``forget``, ``retain``, ``held_out``: records (a path, a list
    of rows, a dataset), or encoded ones. ``retain``: what must stay; ``held_out``: what the model has never seen,
    which says when enough is forgotten. ``method``: a name of METHODS; ``options`` are its settings.
    ``parameters``: shell-style patterns of the weights that may change (default: all that require gradients).
    ``kept_fisher``: for the retain-free method. ``max_length``: in tokens (default: the model's context); a longer
    record is an error unless ``truncate``. ``memory``: for kept factors.
    ``on_step(step)``: called after every step; its time is left out of the result's. ``state``: keeps the weights
    after each step of a method that is ``restartable``; with the state of a run that was killed, and the same
    arguments, model, machine and threads, the result has the bits of an unbroken run.

    The weights change only if all goes well: after any exception the model is as it was. Raises
    InvalidInputError (a bad argument), UnknownMethodError, NotPositiveDefiniteError. Source of the second-order
    methods: arXiv 2403.10557.
    """
    chosen = get_method(method)
    settings = make_settings(chosen.settings, method, dict(chosen.preset) | options)
    if state is not None and not chosen.restartable:
        raise InvalidInputError(f"state: {method} cannot be taken up half-way; leave it out, and run it whole")
    watcher = None if on_step is None else _Watcher(on_step)
    with bare_model(model) as inner:
        request = prepare(
            inner, tokenizer, forget=forget, retain=retain, held_out=held_out, parameters=parameters, seed=seed,
            max_length=max_length, truncate=truncate, batch_size=batch_size, memory=memory, progress=progress,
            on_step=watcher, state=state,
        )  # fmt: skip
        _check_retain(chosen, request, settings)
        kept = _load_kept(chosen, kept_fisher, inner)
        device = next(iter(request.parameters.values())).device
        with restored_on_failure(inner, request.parameters), measured(device) as usage:
            arguments = (request, settings) if kept is None else (request, settings, kept)
            steps, stopped = chosen.run(*arguments)
            check_finite(request.parameters, "the result")
    model.eval()
    watched = 0.0 if watcher is None else watcher.seconds
    uses_retain = chosen.uses_retain or getattr(settings, "retain_weight", 0) > 0
    return UnlearnResult(
        model=model, method=method, settings=dataclasses.asdict(settings), steps=steps, gradients=request.gradients,
        seconds=usage.seconds - watched, peak_bytes=usage.peak_bytes, stopped=stopped, enough=steps[-1]["enough"],
        uses_retain=bool(request.retain) and uses_retain, parameters=list(request.parameters), seed=seed,
        notes=request.notes, records={name: len(getattr(request, name)) for name in ("forget", "retain", "held_out")},
    )  # fmt: skip


def keep_fisher(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None,
    data: Records,
    *,
    samples: int | None = None,
    max_length: int | None = None,
    truncate: bool = False,
    seed: int = 0,
    **options: Any,
) -> KeptFisher:
    """The Fisher of the training data, to keep for later deletions without retained data.

    ``data``: records as for :func:`unlearn`. ``samples``: use so many of them, drawn by ``seed`` (default: all; a
    record can later be taken out only if it was used). ``options``: of
    :func:`fastunlearn.solve.kept_fisher.keep_fisher` (rank, damping, parameters, kind, memory, progress).
    Raises InvalidInputError.
    """
    with bare_model(model) as inner:
        return _keep_fisher(inner, tokenizer, data, samples, max_length, truncate, seed, options)


def _keep_fisher(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase | None, data: Records, samples: int | None,
    max_length: int | None, truncate: bool, seed: int, options: dict[str, Any],
) -> KeptFisher:  # fmt: skip
    check_finite(dict(model.named_parameters()))
    limit = most_tokens(model, max_length)
    encoded = encode_set(data, tokenizer, max_length=limit, truncate=truncate, name="data")
    if samples is not None:
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise InvalidInputError(f"samples={samples!r} must be an integer of at least 1")
        order = torch.randperm(len(encoded), generator=torch.Generator().manual_seed(seed)).tolist()
        encoded = [encoded[i] for i in sorted(order[:samples])]
    return _kept.keep_fisher(model, encoded, pad_token_id=pad_token(model, tokenizer), seed=seed, **options)
