"""requires_grad and is_leaf of the values of a pass are autograd's, and gradient checkpointing may be on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastunlearn.dual import DualPass, UnsupportedOperationError

from ..models.catalogue import build, make_batch
from .oracle import accumulators, chosen, directions, hessian, model_loss, relative_error


class One(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))


def flags(x):
    return x.requires_grad, x.is_leaf


def seen(m):
    """What autograd says of a parameter, of values, of views, of what was written to, and of constants."""
    w, x = m.a, m.a * 1
    held = torch.zeros(5, 4, dtype=torch.float64)
    before = flags(held)
    held[0] = x[0]
    logits = nn.functional.linear(x, m.a)
    with torch.no_grad():
        aside = x * 2
        asked = flags(x)
    every = (w, x, x[0], held, logits, aside, x.detach(), x > 0, nn.functional.silu(x))
    return [before, asked, *(flags(t) for t in every)]


def product(loss):
    model = One()
    parameters = dict(model.named_parameters())
    v, out = directions(parameters, 1), accumulators(parameters, 1)
    DualPass(model, parameters, lambda m, _: loss(m)).hessian({}, v, out)
    truth = hessian(model, parameters, None, v, lambda m, _: loss(m))[0]
    torch.testing.assert_close(out["a"], truth["a"], rtol=1e-10, atol=1e-12)


def test_flags():
    found = []

    def loss(m):
        found.append(seen(m))
        return m.a.pow(3).sum()

    product(loss)
    assert found[0] == found[1]


def test_a_function_that_asks():
    product(lambda m: (lambda x: (2 * x if x.requires_grad else x).pow(3).sum())(m.a * 1))


def test_a_flag_that_is_set():
    def loss(m):
        x = (m.a * 1).requires_grad_()
        x[0] = 2
        y = x.requires_grad_(True)
        y[1] = 3
        return x.pow(3).sum()

    product(loss)
    with pytest.raises(UnsupportedOperationError, match=r"requires_grad_\(False\)"):
        product(lambda m: (m.a * 1).requires_grad_(False).sum())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("memory", ["store", "recompute"])
def test_gradient_checkpointing(training, memory):
    model, batch = build("llama"), make_batch(padded=True)
    parameters = chosen(model)
    v, out = directions(parameters, 1), accumulators(parameters, 1)
    truth = hessian(model, parameters, batch, v)[0]
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train(training)
    DualPass(model, parameters, model_loss, memory).hessian(batch, v, out)
    assert relative_error(out, truth) <= 1e-10


def test_reentrant_checkpoints_are_refused():
    """As torch refuses them in second derivatives."""
    with pytest.raises(UnsupportedOperationError, match="CheckpointFunction fails: When use_reentrant=True"):
        product(lambda m: torch.utils.checkpoint.checkpoint(torch.sin, m.a * 1, use_reentrant=True).sum())
