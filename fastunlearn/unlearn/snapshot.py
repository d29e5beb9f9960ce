"""A copy of the weights to go back to: a failed run leaves the model as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["Snapshot", "restored_on_failure"]


class Snapshot:
    """The values of ``parameters`` at this moment."""

    def __init__(self, parameters: dict[str, nn.Parameter]):
        self._parameters = parameters
        self.values: dict[str, Tensor] = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def restore(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(self.values[name])

    @torch.no_grad()
    def move(self, step: dict[str, Tensor], scale: float) -> None:
        """Sets the weights to the snapshot's plus ``scale`` times ``step``, whatever they are now."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self.values[name] + scale * step[name].to(parameter.device))


@contextmanager
def restored_on_failure(model: nn.Module, parameters: dict[str, nn.Parameter]) -> Iterator[Snapshot]:
    """Yields a snapshot; any exception (also Ctrl-C) puts the weights back. Mode, gradient flags and ``.grad`` are
    put back in any case."""
    snapshot = Snapshot(parameters)
    modes = {module: module.training for module in model.modules()}
    flags = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    try:
        yield snapshot
    except BaseException:
        snapshot.restore()
        raise
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, flag, gradient in flags:
            parameter.requires_grad_(flag)
            parameter.grad = gradient
