"""A run by steps, kept on disk after each of them and taken up again after a kill."""

from __future__ import annotations

import torch

from fastunlearn.errors import InvalidInputError

from .request import Request

__all__ = ["keep_state", "taken_up"]


def keep_state(request: Request, steps: list[dict]) -> None:
    """Writes the weights that may change, the step log and the gradients spent; nothing without ``request.state``."""
    if request.state is None:
        return
    weights = {name: parameter.detach() for name, parameter in request.parameters.items()}
    request.state.step(weights, {"steps": steps, "gradients": request.gradients})


@torch.no_grad()
def taken_up(request: Request) -> list[dict]:
    """Puts the model where the state left it, and gives the step log; [] where there is no state of this run.

    Raises InvalidInputError where the state is not of these weights.
    """
    held, facts = request.state.load() if request.state is not None else ({}, {})
    if not held:
        return []
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in held.items()}
    if shapes != {name: (p.shape, p.dtype) for name, p in request.parameters.items()}:
        raise InvalidInputError(f"state: {request.state.path} holds other weights; delete it to start anew")
    for name, parameter in request.parameters.items():
        parameter.copy_(held[name])
    request.gradients = facts["gradients"]
    return list(facts["steps"])
