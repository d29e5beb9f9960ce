"""What a model keeps of its forward is plain after a pass: it can be copied, and called again."""

from __future__ import annotations

import copy

import torch
from torch import nn

from fastunlearn.dual import DualPass

from .oracle import accumulators, directions


class Keeping(nn.Module):
    """A state of the last call, as an attribute and as a buffer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, -0.7], dtype=torch.float64))
        self.register_buffer("last", torch.zeros(2, dtype=torch.float64))
        self.state = None

    def forward(self):
        self.state = self.last = self.weight.sin() ** 2
        return self.state.square().sum()


def test_states_are_plain_afterwards():
    model = Keeping()
    parameters = {"weight": model.weight}
    for _ in range(2):
        DualPass(model, parameters, lambda m, _: m()).hessian(
            {}, directions(parameters, 1), accumulators(parameters, 1)
        )
        twin = copy.deepcopy(model)
        for kept in (twin.state, twin.last, model.state):
            torch.testing.assert_close(kept, model.weight.detach().sin() ** 2)
    model().backward()
