"""Trainers that OpenUnlearning makes by name: our methods in one shot, a loss for its own loop, and a kept Fisher.

It calls ``cls(model=, train_dataset=, eval_dataset=, tokenizer=, data_collator=, args=, evaluators=, template_args=,
**method_args)``, then ``train()``, ``save_state()``, ``save_model()`` and ``evaluate()``.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch

from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.losses import negative_log_likelihood, softplus_log_odds
from fastunlearn.storage import write_json
from fastunlearn.unlearn import get_method, unlearn
from fastunlearn.unlearn.settings import make_settings

from .records import encoded, plain
from .sockets import Sockets

__all__ = ["ONE_SHOT", "make_trainers"]

#: Name of the trainer, and of its method. ``FastUnlearn`` beside them takes any by ``method_args.method``.
ONE_SHOT = {
    "FisherRemoval": "fisher-removal",
    "FisherForgetting": "fisher-forgetting",
    "NewtonRemoval": "newton",
    "FisherRemovalRetainFree": "fisher-removal-retain-free",
}
RESULT = "unlearning.json"  # the account of the run, beside the model
_OURS = ("method", "held_out", "kept_fisher", "parameters", "memory", "records_per_pass")
_THEIRS = ("model", "args", "train_dataset", "eval_dataset", "tokenizer", "data_collator", "evaluators",
           "template_args", "callbacks", "optimizers", "compute_metrics")  # fmt: skip


def _split(given: dict[str, Any]) -> tuple[dict, dict, dict]:
    """What goes to their base class, what to ``unlearn`` itself, and the settings of the method."""
    theirs = {name: value for name, value in given.items() if name in _THEIRS}
    rest = {name: value for name, value in given.items() if name not in _THEIRS}
    # Its makers of data sets read configuration nodes by attribute: that one stays as it is.
    rest = {name: value if name == "held_out" else plain(value) for name, value in rest.items()}
    ours = {name: rest.pop(name) for name in _OURS if name in rest}
    return theirs, ours, rest


def _check_alone(trainer) -> None:
    if trainer.accelerator.num_processes > 1 or getattr(trainer, "is_deepspeed_enabled", False):
        raise InvalidInputError(
            "a one-shot method runs in one process with the whole model: launch with --num_processes 1, without "
            "DeepSpeed or FSDP"
        )


def _check_settings(method: str, settings: dict) -> None:
    chosen = get_method(method)
    make_settings(chosen.settings, f"trainer.method_args of {method}", dict(chosen.preset) | settings)


class _OneShot:
    """``train()`` is one call of :func:`fastunlearn.unlearn` on the forget and retain data, instead of a loop.

    ``method_args``: the method's settings; ``method``, for the trainer FastUnlearn alone; ``held_out``: a data set's
    configuration, as in ``data``; ``kept_fisher``: a path; ``parameters``: patterns; ``memory``; ``records_per_pass``.
    Errors of these are raised before any computing.
    """

    method: str | None = None
    sockets: Sockets

    def __init__(self, **given: Any) -> None:
        theirs, ours, self.settings = _split(given)
        chosen = ours.pop("method", None)
        if self.method is None:
            self.method = get_method(chosen).name
        elif chosen is not None:
            raise InvalidInputError(f"method: trainer={type(self).__name__} has its own; use trainer=FastUnlearn")
        _check_settings(self.method, self.settings)
        self.held_out_config = ours.pop("held_out", None)
        self.options = {name: value for name, value in ours.items() if value is not None}
        if "records_per_pass" in self.options:
            self.options["batch_size"] = self.options.pop("records_per_pass")
        self.result = None
        super().__init__(**theirs)
        _check_alone(self)

    def _held_out(self):
        if self.held_out_config is None:
            return None
        tokenizer = getattr(self, "processing_class", None) or self.tokenizer
        data = self.sockets.get_datasets(self.held_out_config, tokenizer=tokenizer, template_args=self.template_args)
        return encoded(data, "held_out")

    def train(self, resume_from_checkpoint=None, **kwargs):
        """Unlearns, writes the account of it to ``output_dir``, and returns the loop's kind of output."""
        from transformers.trainer_utils import TrainOutput

        if resume_from_checkpoint:
            raise InvalidInputError("resume_from_checkpoint: a one-shot method has no checkpoints; start it anew")
        data = self.train_dataset
        if getattr(data, "forget", None) is None:
            raise InvalidInputError("data: there is no forget set; run with mode=unlearn and data=unlearn")
        if self.args.eval_on_start:
            self.evaluate()
        self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)
        self.result = unlearn(
            self.model, forget=encoded(data.forget, "forget"),
            retain=None if getattr(data, "retain", None) is None else encoded(data.retain, "retain"),
            held_out=self._held_out(), method=self.method, seed=self.args.seed, on_step=self._note,
            **self.options, **self.settings,
        )  # fmt: skip
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        write_json(Path(self.args.output_dir) / RESULT, self.result.to_dict())
        last = self.result.steps[-1]
        metrics = {"train_runtime": self.result.seconds, "gradients": self.result.gradients,
                   "forget_accuracy": last["forget_accuracy"], "kl_probe": last["kl_probe"]}  # fmt: skip
        return TrainOutput(self.state.global_step, last["forget_loss"], metrics)

    def _note(self, step: dict) -> None:
        self.state.global_step = step["step"]
        self.log({name: value for name, value in step.items() if isinstance(value, float)})


def _mean_loss(outputs, labels, token_loss):
    wanted = labels[:, 1:] != -100
    logits = outputs.logits[:, :-1][wanted]
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    return token_loss(logits, labels[:, 1:][wanted]).mean()


class _BoundedDifference:
    """For the loop of OpenUnlearning: gamma times Fisher Removal's bounded pull on the forget records, and alpha times
    the loss of the retained ones; both are means over the batch's target tokens.

    ``threshold``: log-odds at which a token's pull has faded by half.
    """

    def __init__(self, gamma: float = 1.0, alpha: float = 1.0, threshold: float = -3.0, **theirs: Any) -> None:
        super().__init__(**theirs)
        self.gamma, self.alpha, self.pull = gamma, alpha, softplus_log_odds(threshold)
        # The two losses are means already: the loop must divide by the accumulation steps, whatever it counted.
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Both signatures of transformers' Trainer: with ``num_items_in_batch`` (4.46 and later) and without."""
        parts = {
            side: {name: inputs[side][name] for name in ("input_ids", "attention_mask", "labels")}
            for side in ("forget", "retain")
        }
        forget = model(**parts["forget"])
        loss = self.gamma * _mean_loss(forget, parts["forget"]["labels"], self.pull)
        if self.alpha:
            retain = model(**parts["retain"])
            loss = loss + self.alpha * _mean_loss(retain, parts["retain"]["labels"], negative_log_likelihood)
        return (loss, forget) if return_outputs else loss


class _KeepFisher:
    """Ordinary fine-tuning that keeps a Fisher of what it trained on, for later requests without retained data.

    ``method_args``: of :class:`fastunlearn.integrations.huggingface.KeepFisherCallback`.
    """

    def __init__(self, **given: Any) -> None:
        from fastunlearn.integrations.huggingface import KeepFisherCallback

        names = set(inspect.signature(KeepFisherCallback.__init__).parameters) - {"self"}
        settings = {name: plain(value) for name, value in given.items() if name in names}
        super().__init__(**{name: value for name, value in given.items() if name not in names})
        self.kept = KeepFisherCallback(**settings)
        self.add_callback(self.kept)


def make_trainers(sockets: Sockets) -> list[type]:
    """The classes, on the base classes of the checkout; each is registered by its ``__name__``."""
    ours = {"sockets": sockets, "__doc__": _OneShot.__doc__}
    made = [
        type(name, (_OneShot, sockets.unlearn_trainer), {**ours, "method": method}) for name, method in ONE_SHOT.items()
    ]
    made.append(type("FastUnlearn", (_OneShot, sockets.unlearn_trainer), ours))
    made.append(type("BoundedDifference", (_BoundedDifference, sockets.unlearn_trainer), {}))
    made.append(type("FinetuneKeepFisher", (_KeepFisher, sockets.finetune_trainer), {}))
    return made
