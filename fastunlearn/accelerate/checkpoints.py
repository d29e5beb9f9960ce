"""``torch.utils.checkpoint`` of a plain function: it runs again in the backward, where no mode of the forward is on.

PyTorch then saves other tensors than it did before, and says so with an error. A checkpoint that begins inside the
mode leaves its mark: while it runs, its hook is the uppermost one for saved tensors. What it will run again is kept
beside that hook, and gets the mode too. Checkpoints that began before the mode was entered are left alone: the code
that entered it does so again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any

import torch

__all__ = ["follow_into_recomputation", "saving"]

_top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)


def saving() -> Any:
    """What packs tensors that autograd saves now; None for nothing in particular."""
    hooks = None if _top is None else _top(False)
    return None if hooks is None else hooks[0]


def follow_into_recomputation(outside: Any, mode: Callable[[], AbstractContextManager]) -> None:
    """Where a checkpoint is running that began since ``outside = saving()``: its second run happens in ``mode()``."""
    pack = saving()
    if pack is None or pack is outside:
        return
    for cell in getattr(pack, "__closure__", None) or ():
        frame: Any = None
        with suppress(ValueError):  # an empty cell, of a hook that is no checkpoint's
            frame = cell.cell_contents
        own = getattr(frame, "recompute_fn", None)
        if own is not None and not isinstance(own, _Inside):
            frame.recompute_fn = _Inside(own, mode)


class _Inside:
    """``own``, to be called in ``mode()``."""

    def __init__(self, own: Callable, mode: Callable[[], AbstractContextManager]) -> None:
        self.own, self.mode = own, mode

    def __call__(self, *args: Any) -> Any:
        with self.mode():
            return self.own(*args)
