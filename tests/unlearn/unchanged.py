"""A check that a failed run has left everything as it was: every bit of the weights, modes, flags, files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


def bits(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer as bytes, so that NaN equals itself and -0 is not 0."""
    return {
        name: tensor.detach().contiguous().flatten().view(torch.uint8).clone()
        for name, tensor in model.state_dict(keep_vars=True).items()
    }


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def files(folder: Path) -> dict[str, bytes | None]:
    """All that is under ``folder``, hidden files too, by relative path; folders have None."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@contextmanager
def unchanged(model: torch.nn.Module, folder: Path | None = None) -> Iterator[None]:
    """Asserts that the block changes nothing. To make that say something, the model is first put into a state
    that nobody would set by chance: training mode with one module in evaluation mode, one parameter frozen."""
    model.train()
    next(module for module in model.modules() if not any(module.children())).eval()
    list(model.parameters())[1].requires_grad_(False)
    weights, modes = bits(model), [module.training for module in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    there = files(folder) if folder else None
    yield
    assert same_bits(bits(model), weights)
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    if folder:
        assert files(folder) == there
