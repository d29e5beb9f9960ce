"""transformers' Trainer: a callback that keeps a low-rank Fisher of what the model was trained on.

    trainer = Trainer(..., callbacks=[KeepFisherCallback(rank=256)])
    trainer.train()                                    # writes out/kept_fisher.safetensors
    fu.unlearn(model, tokenizer, forget=records, method="fisher-removal-retain-free",
               kept_fisher="out/kept_fisher.safetensors")

A kept Fisher is good for exactly the weights that it was taken at: a running sum or average of gradients over training
is of weights that are gone, and records could not be taken out of it. So the callback only *draws records* while the
model trains, and takes their gradients once, at the end, at the weights that training leaves.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import TrainerCallback

from fastunlearn.errors import FastUnlearnError, InvalidInputError
from fastunlearn.operators.model_state import check_finite
from fastunlearn.operators.wrapped import bare_model
from fastunlearn.solve.kept_fisher import KeptFisher, keep_fisher
from fastunlearn.unlearn.request import pad_token

from ._reservoir import Reservoir, rows_of

__all__ = ["KeepFisherCallback"]

logger = logging.getLogger(__name__)
FILE = "kept_fisher.safetensors"


class KeepFisherCallback(TrainerCallback):
    """Keeps the Fisher of up to ``samples`` different records (None: all), a uniform draw from those that training saw.

    ``path``: the file to write (default: kept_fisher.safetensors in the Trainer's output folder; one that is there is
    replaced, whole or not at all). ``rank``, ``damping``, ``parameters``, ``kind``, ``batch_size``, ``memory``: of
    :func:`fastunlearn.solve.kept_fisher.keep_fisher`. ``seed``: of the draw.

    Records are what the model is fed in train mode: input_ids and labels without their padding. A record can be taken
    out later only if it was drawn (``complete`` says whether all were) and if the request encodes it alike. Records
    that a run before a resumed checkpoint saw are not known. An error at the end of training does not stop it, because
    the trained model must not be lost: it is logged, and ``kept`` raises it.
    """

    def __init__(
        self,
        path: str | os.PathLike | None = None,
        *,
        samples: int | None = 4096,
        rank: int = 256,
        damping: float = 1e-4,
        parameters: Sequence[str] | str | None = None,
        kind: str = "empirical",
        seed: int = 0,
        batch_size: int = 32,
        memory: int | str = "1GB",
    ):
        if samples is not None and (isinstance(samples, bool) or not isinstance(samples, int) or samples < 1):
            raise InvalidInputError(f"samples={samples!r} must be an integer of at least 1, or None for all records")
        if path is not None and Path(path).suffix != ".safetensors":
            raise InvalidInputError(f"path={os.fspath(path)!r} must end in .safetensors")
        self.path = path
        self.options = {"rank": rank, "damping": damping, "parameters": parameters, "kind": kind, "seed": seed,
                        "batch_size": batch_size, "memory": memory}  # fmt: skip
        self.reservoir = Reservoir(samples, seed)
        self._hook = None
        self._kept: KeptFisher | None = None
        self._error: FastUnlearnError | None = None

    @property
    def kept(self) -> KeptFisher:
        """The Fisher, after training. Raises what kept it from being made."""
        if self._error is not None:
            raise self._error
        if self._kept is None:
            raise InvalidInputError("kept: there is no Fisher before the end of training (on the main process)")
        return self._kept

    @property
    def complete(self) -> bool:
        """Whether the Fisher is of every record that training saw."""
        return self.reservoir.complete

    def on_train_begin(self, args, state, control, model: nn.Module | None = None, **kwargs) -> None:
        if getattr(args, "fsdp", None) or getattr(args, "deepspeed", None):
            raise InvalidInputError(
                "KeepFisherCallback needs the whole model in each process; FSDP and DeepSpeed cut it into pieces: "
                "leave the callback out, and run `fastunlearn keep-fisher` on the saved model"
            )
        self._remove_hook()
        self._hook = model.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        if not model.training or not torch.is_grad_enabled() or self._error is not None:
            return
        if "input_ids" not in kwargs or "labels" not in kwargs:
            self._fail(
                InvalidInputError(
                    "KeepFisherCallback: the model is fed without input_ids or labels (a loss function of the "
                    "Trainer's own, such as label smoothing, takes them off): keep the Fisher after training, with "
                    "fastunlearn.keep_fisher"
                )
            )
            return
        try:
            self.reservoir.add(rows_of(kwargs))
        except FastUnlearnError as error:
            self._fail(error)

    def _fail(self, error: FastUnlearnError) -> None:
        self._error = error
        logger.error("no Fisher is kept of this training: %s", error)

    def on_train_end(self, args, state, control, model: nn.Module | None = None, **kwargs) -> None:
        self._remove_hook()
        self._join()
        if not state.is_world_process_zero or self._error is not None:
            return
        try:
            tokenizer = kwargs.get("processing_class") or kwargs.get("tokenizer")
            self._kept = self._make(model, tokenizer)
            path = Path(args.output_dir, FILE) if self.path is None else Path(self.path)
            self._kept.save(path, overwrite=True)
        except FastUnlearnError as error:
            self._fail(error)
        else:
            logger.info("kept the Fisher of %d records: %s", self._kept.samples, path)

    def _make(self, model: nn.Module, tokenizer) -> KeptFisher:
        samples = self.reservoir.samples()
        if not samples:
            raise InvalidInputError("KeepFisherCallback: training has shown no record with a token to score")
        with bare_model(model) as inner:
            check_finite(dict(inner.named_parameters()))
            return keep_fisher(inner, samples, pad_token_id=pad_token(inner, tokenizer), **self.options)

    def _join(self) -> None:
        """The draws of all processes, in each of them."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        found: list = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(found, (self.reservoir, self._error))
        for rank, (reservoir, error) in enumerate(found):
            if rank != torch.distributed.get_rank():
                self.reservoir.join(reservoir)
                self._error = self._error or error

    def _remove_hook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
