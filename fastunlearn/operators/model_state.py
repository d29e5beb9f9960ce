"""Setting a model up for a pass over it, and putting it back as it was."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fastunlearn._threads import PASS
from fastunlearn.errors import InvalidInputError

__all__ = ["check_finite", "evaluation", "select_parameters", "widened"]


def select_parameters(model: nn.Module, patterns: Sequence[str] | str | None = None) -> dict[str, nn.Parameter]:
    """The parameters whose name matches one of ``patterns`` (shell style: ``*layers.3.*``), in the model's order.

    None chooses all that require a gradient. A tied parameter has the first of its names. Integer and other
    parameters without gradients are never chosen. Raises InvalidInputError for a pattern that matches nothing, and
    for parameters on several devices.
    """
    named = {n: p for n, p in model.named_parameters() if p.is_floating_point()}
    if patterns is None:
        with PASS:  # which sets these flags for its time
            chosen = {n: p for n, p in named.items() if p.requires_grad}
        if not chosen:
            raise InvalidInputError("parameters: no parameter of the model requires a gradient; name some by pattern")
        return _on_one_device(chosen)
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if not patterns:
        raise InvalidInputError("parameters is empty: give at least one pattern, or None for all")
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in named):
            shown = ", ".join(list(named)[:6])
            raise InvalidInputError(
                f"parameters: pattern {pattern!r} matches no parameter; names look like: {shown}, ..."
            )
    return _on_one_device(
        {n: p for n, p in named.items() if any(fnmatch.fnmatchcase(n, pattern) for pattern in patterns)}
    )


def _on_one_device(chosen: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    devices = sorted({str(p.device) for p in chosen.values()})
    if len(devices) > 1:
        raise InvalidInputError(
            f"parameters are on several devices ({', '.join(devices)}), as device_map puts them: load the model on one "
            "device (device_map={'': 0}), or choose the parameters of one device by pattern"
        )
    return chosen


def check_finite(named: Mapping[str, Tensor], what: str = "the model") -> None:
    """Raises InvalidInputError naming the first tensor that holds NaN or infinity, or no data at all."""
    for name, tensor in named.items():
        if tensor.is_meta:
            raise InvalidInputError(
                f"model: parameter {name!r} of {what} has no data here (device_map offloaded it, or it was never "
                "loaded): load the model where its weights fit, without offloading"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidInputError(
                f"model: parameter {name!r} of {what} holds NaN or infinity; load a sound checkpoint"
            )


@contextmanager
def evaluation(model: nn.Module, trainable: Sequence[nn.Parameter] = ()) -> Iterator[None]:
    """Evaluation mode (no dropout), with gradients for ``trainable`` alone; all flags come back afterwards. For one
    thread at a time."""
    wanted = {id(p) for p in trainable}
    with PASS:
        training = {module: module.training for module in model.modules()}
        flags = [(p, p.requires_grad) for p in model.parameters()]
        try:
            model.eval()
            for p, _ in flags:
                p.requires_grad_(id(p) in wanted)
            yield
        finally:
            for module, mode in training.items():
                module.training = mode
            for p, flag in flags:
                p.requires_grad_(flag)


@contextmanager
def widened(model: nn.Module, dtype: torch.dtype = torch.float64) -> Iterator[None]:
    """The model with its weights and buffers in ``dtype``, those that are narrower; the tensors that it had come back
    afterwards. One thread at a time; whatever else runs the model meanwhile sees the wide ones."""
    with PASS:
        tensors = [*model.parameters(), *model.buffers()]
        held = [(t, t.data) for t in tensors if t.is_floating_point() and t.dtype.itemsize < dtype.itemsize]
        try:
            for tensor, data in held:
                tensor.data = data.to(dtype)
            yield
        finally:
            for tensor, data in held:
                tensor.data = data
