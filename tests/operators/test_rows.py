"""Which sequence a loss belongs to: the order of a batch's tensors does not matter, and a layout that is not known is
refused."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import fastunlearn as fu
from fastunlearn.errors import InvalidInputError
from tests.operators.conftest import VOCABULARY, error

EXACT = 1e-10


class Positions(torch.nn.Module):
    """A model that takes positions; ``layout`` is how its loss sees logits (B, S, V) and labels (B, S)."""

    def __init__(self, layout):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        draw = lambda *shape: torch.nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))  # noqa: E731
        self.tokens, self.places, self.head = draw(VOCABULARY, 6), draw(8, 6), draw(VOCABULARY, 6)
        self.layout = layout

    def logits(self, input_ids, position_ids):
        return F.linear(torch.tanh(self.tokens[input_ids] + self.places[position_ids]), self.head)

    def forward(self, input_ids, labels, position_ids):
        z, y = self.layout(self.logits(input_ids, position_ids), labels)
        return {"loss": F.cross_entropy(z, y)}


def shifted(z, y):
    return z[:, :-1].flatten(0, 1), y[:, 1:].flatten()


def padded(z, y):
    """As transformers does it: a label of -100 at the end takes the place of the shift."""
    return z.flatten(0, 1), F.pad(y, (0, 1), value=-100)[:, 1:].flatten()


def prompted(z, y):
    """Two places of a learnt prompt in front, as PEFT's prompt tuning has them."""
    return F.pad(z, (0, 0, 2, -1)).flatten(0, 1), F.pad(y[:, 1:], (2, 0), value=-100).flatten()


def picked(z, y):
    keep = y[:, 1:] != -100
    return z[:, :-1][keep], y[:, 1:][keep]


def by_place(z, y):
    return z[:, :-1].movedim(0, 1).flatten(0, 1), y[:, 1:].T.flatten()


def a_batch(targets):
    """Three sequences of 6 tokens, the first with so many targets, in an order in which positions, one row for all,
    come first."""
    ids = torch.randint(0, VOCABULARY, (3, 6), generator=torch.Generator().manual_seed(3))
    labels = ids.clone()
    labels[0, 1 : 6 - targets] = -100
    return {"position_ids": torch.arange(6)[None], "input_ids": ids, "labels": labels}


def rows(model, batch):
    """G, a row for each sequence, by autograd."""
    logits = model.logits(batch["input_ids"], batch["position_ids"])[:, :-1]
    found = []
    for z, y in zip(logits, batch["labels"][:, 1:], strict=True):
        loss = F.cross_entropy(z, y, reduction="sum")
        own = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        found.append(torch.cat([g.flatten() for g in own]))
    return torch.stack(found)


@pytest.mark.parametrize("layout, targets", [(shifted, 2), (padded, 2), (prompted, 2), (picked, 5)])
def test_products_of_single_sequences(layout, targets):
    """Also where the first tensor of the batch has one row for all; targets that are picked are known where each
    sequence has as many."""
    model, batch = Positions(layout), a_batch(targets)
    g = rows(model, batch)
    v, c = torch.randn(g.shape[1], dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    assert error(fu.per_sample_dot(model, [batch], v), g @ v) < EXACT
    assert error(fu.weighted_gradient(model, [batch], c), g.T @ c) < EXACT
    assert error(fu.Fisher(model, [batch]) @ v, g.T @ (g @ v) / 3) < EXACT
    counts = (batch["labels"][:, 1:] != -100).sum(1)
    assert error(fu.gradient(model, [batch], reduction="sample-mean"), (g / counts[:, None]).mean(0)) < EXACT
    assert error(fu.gradient(model, [batch], reduction="samples"), g.mean(0)) < EXACT


@pytest.mark.parametrize("layout, targets", [(picked, 2), (by_place, 2), (by_place, 5)])
def test_a_layout_in_which_sequences_cannot_be_told_apart_is_refused(layout, targets):
    model, batch = Positions(layout), a_batch(targets)
    v = torch.randn(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    g = rows(model, batch)
    for call in (
        lambda: fu.per_sample_dot(model, [batch], v),
        lambda: fu.weighted_gradient(model, [batch], torch.ones(3)),
        lambda: fu.Fisher(model, [batch]) @ v,
        lambda: fu.Hessian(model, [batch], reduction="sample-mean") @ v,
    ):
        with pytest.raises(InvalidInputError, match="which sequence a loss belongs to"):
            call()
    assert error(fu.gradient(model, [batch], reduction="samples"), g.mean(0)) < EXACT  # needs no single losses


def test_own_losses_weigh_by_sequences():
    """Two batches of 3 and 1 sequences whose positions come first."""
    model, batches = Positions(shifted), [a_batch(5)]
    batches.append({n: t[:1] for n, t in batches[0].items()})

    def loss(model, batch):
        return model.logits(batch["input_ids"], batch["position_ids"]).square().mean()

    expected = torch.autograd.grad(
        sum(w * loss(model, b) for w, b in zip((0.75, 0.25), batches, strict=True)), list(model.parameters())
    )
    assert error(fu.gradient(model, batches, loss), torch.cat([g.flatten() for g in expected])) < EXACT
