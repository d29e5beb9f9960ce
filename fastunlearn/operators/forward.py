"""One forward pass to the logits, whatever module it is: a model of transformers, or one's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastunlearn.errors import InvalidInputError

__all__ = ["arguments", "logits", "logits_in", "takes"]


def takes(model: nn.Module, name: str) -> bool:
    """Whether the model's forward has an argument of this name."""
    return name in inspect.signature(model.forward).parameters


def arguments(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the model is called with: the batch without its labels and without a cache of keys and values.

    A mask that says no more than that rows end in padding is left out for a model that takes none: no token sees what
    comes after it.
    """
    taken = inspect.signature(model.forward).parameters
    others = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    found = {name: value for name, value in batch.items() if name != "labels"}
    mask = found.get("attention_mask")
    if mask is not None and "attention_mask" not in taken and not others and not bool((mask.diff(dim=1) > 0).any()):
        del found["attention_mask"]
    # A wrapper (PEFT's) hands on what it does not know; a module without such a setting may not.
    if "use_cache" in taken or (others and hasattr(getattr(model, "config", None), "use_cache")):
        found["use_cache"] = False
    if "labels" in taken and taken["labels"].default is inspect.Parameter.empty:
        found["labels"] = batch["labels"]
    return found


def logits(model: nn.Module, batch: Mapping[str, Tensor], run: Callable[..., Any] | None = None) -> Tensor:
    """The logits (rows, tokens, classes) of a batch. ``run`` is called in the model's place, such as the model with
    other weights. Raises InvalidInputError where the model gives others."""
    return logits_in((run or model)(**arguments(model, batch)), batch["input_ids"].shape)


def logits_in(output: Any, shape: torch.Size) -> Tensor:
    """The logits (*shape, classes) in a model's output: ``.logits``, ["logits"], the tensor of three axes of a tuple,
    or the output itself."""
    found = getattr(output, "logits", None)
    if found is None and isinstance(output, Mapping):
        found = output.get("logits")
    if found is None:
        some = output if isinstance(output, tuple | list) else [output]
        found = next((one for one in some if isinstance(one, Tensor) and one.dim() == 3), None)
    if not isinstance(found, Tensor) or found.dim() != 3:
        raise InvalidInputError(
            "model returns no logits (samples, tokens, vocabulary): return them, as an output with .logits, a mapping "
            "with 'logits', or a tuple that holds them"
        )
    if found.shape[:2] != shape:
        raise InvalidInputError(
            f"model: it gives logits for {tuple(found.shape[:2])} (samples, tokens), and the batch has {tuple(shape)}: "
            f"a prompt in front of the tokens (prompt tuning, P-tuning) is not supported here: use fu.Fisher with "
            f"first labels of -100, or adapters that add no tokens, such as LoRA"
        )
    return found
