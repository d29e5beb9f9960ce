"""Checks of what a dual pass is given; every message names the culprit and the mend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastunlearn.errors import InvalidInputError

__all__ = ["check_batch", "check_dropout", "check_model", "check_vectors", "memory_budget"]

_AUTO = 768 * 2**20
_CPU = torch.device("cpu")


def memory_budget(memory: str | int, result_bytes: int, device: torch.device = _CPU) -> int | None:
    """Bytes that may be kept for the reverse sweep, None for any number. Raises InvalidInputError.

    "auto" may keep as much as the result takes (many vectors at once need more), or 768 MiB for a small one; on a GPU
    also two thirds of its free memory, which is there for this: each block that is kept saves a third of its work.
    """
    if memory == "store":
        return None
    if memory == "recompute":
        return 0
    if memory == "auto":
        return max(_AUTO, result_bytes, 2 * _free_bytes(device) // 3)
    if isinstance(memory, bool) or not isinstance(memory, int) or memory < 0:
        raise InvalidInputError(f'memory={memory!r}: use "auto", "store", "recompute" or a number of bytes')
    return memory


def _free_bytes(device: torch.device) -> int:
    """Of a GPU, with what PyTorch holds for later; 0 for the CPU, whose memory others share."""
    if device.type != "cuda":
        return 0
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + max(0, held)


def check_model(model: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
    """Raises InvalidInputError for no or foreign parameters, for such that have no gradient, and for compiled code."""
    if not parameters:
        raise InvalidInputError("parameters is empty: choose at least one")
    for name, module in model.named_modules():
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            raise InvalidInputError(
                f"model: {name or type(module).__name__!r} is compiled, and a dual pass cannot look inside: pass the "
                f"model before torch.compile"
            )
    own = {id(p) for p in model.parameters()}
    seen: dict[int, str] = {}
    for name, parameter in parameters.items():
        if id(parameter) not in own:
            raise InvalidInputError(f"parameters: {name!r} is not a parameter of the model")
        if not parameter.dtype.is_floating_point:
            raise InvalidInputError(
                f"parameters: {name!r} has dtype {parameter.dtype} and no gradient (quantised?): leave it out, or load "
                f"the model unquantised"
            )
        if id(parameter) in seen:
            raise InvalidInputError(f"parameters: {name!r} and {seen[id(parameter)]!r} are one tied tensor: give one")
        seen[id(parameter)] = name


def check_dropout(model: nn.Module) -> None:
    """Raises InvalidInputError naming a module that would drop at random."""
    for name, module in model.named_modules():
        p = getattr(module, "p", 0.0)
        if module.training and isinstance(module, nn.modules.dropout._DropoutNd) and p > 0:
            raise InvalidInputError(
                f"model: {name!r} drops out with p={p} in training mode, so the loss has no Hessian: call model.eval()"
            )


def check_vectors(
    parameters: dict[str, nn.Parameter], tangents: Mapping[str, Tensor] | None, out: Mapping[str, Tensor] | None
) -> int:
    """K, the number of vectors. Raises InvalidInputError for a missing name, a wrong shape, dtype or device."""
    count = None
    for what, vectors in (("tangents", tangents), ("out", out)):
        if vectors is None:
            continue
        for name, parameter in parameters.items():
            if name not in vectors:
                raise InvalidInputError(f"{what}: {name!r} is missing")
            v = vectors[name]
            if not isinstance(v, Tensor) or v.shape[1:] != parameter.shape or v.ndim != parameter.ndim + 1:
                got = tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__
                raise InvalidInputError(f"{what}[{name!r}]: expected (K, {tuple(parameter.shape)}), got {got}")
            if count is None:
                count = v.shape[0]
            if v.shape[0] != count or count == 0:
                raise InvalidInputError(f"{what}[{name!r}]: {v.shape[0]} vectors where others have {count}")
            if v.device != parameter.device:
                raise InvalidInputError(f"{what}[{name!r}] is on {v.device}, the parameter on {parameter.device}")
            if what == "tangents" and not v.dtype.is_floating_point:
                raise InvalidInputError(f"tangents[{name!r}]: expected a floating dtype, got {v.dtype}")
            if what == "out" and v.dtype not in (torch.float32, torch.float64):
                raise InvalidInputError(f"out[{name!r}]: accumulators are float32 or float64, got {v.dtype}")
    return count


def check_batch(batch: Any) -> None:
    """Raises InvalidInputError for a batch that is None."""
    if batch is None:
        raise InvalidInputError("batch is None")
