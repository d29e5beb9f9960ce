"""What ties a saved curvature to the weights it is of."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

__all__ = ["fingerprint", "versions"]


def fingerprint(parameters: dict[str, Tensor]) -> str:
    """SHA-256 of the names, shapes and bits of the parameters: curvature is of these weights and no others."""
    digest = hashlib.sha256()
    for name, tensor in parameters.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def versions(parameters: dict[str, Tensor]) -> list[tuple[int, int]]:
    """A cheap mark of the parameters' present values: it changes with every in-place change that autograd sees."""
    return [(tensor.data_ptr(), tensor._version) for tensor in parameters.values()]
