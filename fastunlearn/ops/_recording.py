"""Whether a CUDA graph is being recorded. Then nothing may wait for a value on the GPU, and nothing may come from the
CPU: checks of values are left out, and a choice that would need values is replaced by one that does not."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["recording"]


def recording(value: Tensor) -> bool:
    """True where ``value`` is on a GPU whose current stream is being recorded into a graph."""
    return value.is_cuda and torch.cuda.is_current_stream_capturing()
