"""The model inside what training stacks put around it: DataParallel, torch.compile, accelerate's autocast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from fastunlearn.errors import InvalidInputError

__all__ = ["bare_model", "unwrapped"]

_MODULE = ("DataParallel", "DistributedDataParallel", "DeepSpeedEngine")  # by name: DeepSpeed need not be there
_SHARDED = (
    "model: its weights are cut into pieces over several processes ({how}), and no process has them whole: gather "
    "them first (accelerator.get_state_dict, or load the saved checkpoint), and unlearn on one device"
)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module that holds the weights under their own names, whatever stands around it.

    Takes off DataParallel, DistributedDataParallel, a DeepSpeed engine and the wrapper of ``torch.compile``; a bare
    model comes back as it is. Raises InvalidInputError for sharded weights (FSDP, tensor parallel, ZeRO-3).
    """
    while True:
        kinds = {kind.__name__ for kind in type(model).__mro__}
        if "FullyShardedDataParallel" in kinds or "FSDPModule" in kinds:
            raise InvalidInputError(_SHARDED.format(how="FSDP"))
        if "_orig_mod" in model._modules:
            model = model._modules["_orig_mod"]
        elif kinds & set(_MODULE):
            model = model.module
        else:
            break
    for parameter in model.parameters():
        if hasattr(parameter, "ds_id"):
            raise InvalidInputError(_SHARDED.format(how="DeepSpeed ZeRO-3"))
        if type(parameter.data).__name__ == "DTensor":
            raise InvalidInputError(_SHARDED.format(how="DTensor"))
    return model


@contextmanager
def bare_model(model: nn.Module) -> Iterator[nn.Module]:
    """The unwrapped model, and its own forward for as long as the block lasts.

    ``Accelerator.prepare`` with mixed precision puts an autocast around ``model.forward``. Gradients of samples and
    their products are taken in the precision of the weights, so that is set aside, and put back at the end.
    """
    inner = unwrapped(model)
    patched = inner.__dict__.get("forward")
    original = inner.__dict__.get("_original_forward")
    if patched is None or original is None:
        yield inner
        return
    inner.__dict__["forward"] = original
    try:
        yield inner
    finally:
        inner.__dict__["forward"] = patched
