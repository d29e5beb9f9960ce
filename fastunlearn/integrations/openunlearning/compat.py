"""OpenUnlearning on a newer transformers than the one it pins.

Its trainers pass ``tokenizer=``, which transformers 5 has renamed to ``processing_class=``, and its configurations name
training arguments that have gone. Where the installed transformers still has them, nothing is done here.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging

from .sockets import Sockets

__all__ = ["adapt"]

logger = logging.getLogger(__name__)


def adapt(sockets: Sockets) -> None:
    """Makes the checkout's trainers fit the installed transformers, and says in the log what it changed. Once only."""
    import transformers

    finetune = sockets.finetune_trainer
    known = inspect.signature(transformers.Trainer.__init__).parameters
    if "tokenizer" not in known and "processing_class" in known and not hasattr(finetune, "tokenizer"):
        _rename_tokenizer(finetune)
        logger.warning("transformers %s: tokenizer= is passed on as processing_class=", transformers.__version__)
    maker = sockets.trainer.load_trainer_args
    if not hasattr(maker, "__wrapped__"):
        fields = {field.name for field in dataclasses.fields(transformers.TrainingArguments)} | {"warmup_epochs"}
        sockets.trainer.load_trainer_args = _without_unknown(maker, fields, transformers.__version__)


def _rename_tokenizer(finetune: type) -> None:
    original = finetune.__init__

    @functools.wraps(original)
    def init(self, *args, tokenizer=None, **kwargs):
        if tokenizer is not None:
            kwargs["processing_class"] = tokenizer
        original(self, *args, **kwargs)

    finetune.__init__ = init
    finetune.tokenizer = property(lambda self: self.processing_class)


def _without_unknown(maker, known: set[str], version: str):
    @functools.wraps(maker)
    def load_trainer_args(trainer_args, dataset):
        kept = {name: value for name, value in dict(trainer_args).items() if name in known}
        gone = sorted(set(trainer_args) - set(kept))
        if gone:
            logger.warning("transformers %s has no such training arguments, left out: %s", version, ", ".join(gone))
        return maker(kept, dataset)

    return load_trainer_args
