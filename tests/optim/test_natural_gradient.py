"""The natural gradient against a dense solve in float64, and the optimizer around it."""

from __future__ import annotations

import copy

import pytest
import torch

from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.samples import to_samples
from fastunlearn.operators.targets import sample_labels
from fastunlearn.optim import NaturalGradient, natural_gradient
from tests.oracles.dense import plain_rows

DAMPING = 1e-2


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors.values()])


@pytest.mark.parametrize("kind", ["empirical", "sampled"])
def test_it_is_the_dense_solve(kind, tiny_gpt2, batch):
    model, samples = tiny_gpt2(layers=1), to_samples(batch)
    own = plain_rows(model, samples)
    g = own.mean(0)
    if kind == "sampled":
        drawn = sample_labels(model, samples, pad_token_id=0, batch_size=32, seed=0)
        own = plain_rows(model, drawn)
    dense = DAMPING * torch.eye(len(g), dtype=torch.float64) + own.T @ own / len(own)
    truth = torch.linalg.solve(dense, g)
    found = natural_gradient(model, batch, damping=DAMPING, kind=kind)
    torch.testing.assert_close(flat(found.tensors), truth, rtol=1e-8, atol=1e-10)
    assert found.slope == pytest.approx((g @ truth).item(), rel=1e-8)
    assert found.loss.item() == pytest.approx(model(**batch).loss.item(), rel=1e-6)  # transformers' loss is in float32


def test_dropout_is_off_meanwhile_also_while_labels_are_drawn(tiny_gpt2, batch):
    model = tiny_gpt2(layers=1, embd_pdrop=0.5)
    still = flat(natural_gradient(model, batch, damping=DAMPING, kind="sampled", seed=2).tensors)
    state = torch.random.get_rng_state()
    found = flat(natural_gradient(model.train(), batch, damping=DAMPING, kind="sampled", seed=2).tensors)
    assert torch.equal(found, still) and model.training and torch.equal(torch.random.get_rng_state(), state)


def test_blocks_are_solved_apart(tiny_llama, batch):
    model = tiny_llama(layers=1)
    own, found = plain_rows(model, to_samples(batch)), natural_gradient(model, batch, damping=DAMPING, blocks="tensor")
    at, slope = 0, 0.0
    for (name, p), tensor in zip(model.named_parameters(), found.tensors.values(), strict=True):
        part = own[:, at : at + p.numel()]
        at += p.numel()
        dense = DAMPING * torch.eye(part.shape[1], dtype=torch.float64) + part.T @ part / len(own)
        truth = torch.linalg.solve(dense, part.mean(0))
        slope += (part.mean(0) @ truth).item()
        torch.testing.assert_close(tensor.flatten(), truth, rtol=1e-8, atol=1e-10, msg=name)
    assert found.slope == pytest.approx(slope, rel=1e-8)


def test_one_step_with_momentum_by_hand(tiny_llama, batch):
    model = tiny_llama(layers=1)
    optimizer = NaturalGradient(model.parameters(), lr=0.5, damping=DAMPING, momentum=0.5, trust=None)
    start = [p.detach().clone() for p in model.parameters()]
    first = natural_gradient(model, batch, damping=DAMPING).tensors.values()
    optimizer.backward(model, batch)
    optimizer.step()
    for p, before, d in zip(model.parameters(), start, first, strict=True):
        torch.testing.assert_close(p.detach(), before - 0.5 * d)
    optimizer.zero_grad()
    middle = [p.detach().clone() for p in model.parameters()]
    second = natural_gradient(model, batch, damping=DAMPING).tensors.values()
    optimizer.backward(model, batch)
    optimizer.step()
    for p, before, d, e in zip(model.parameters(), middle, first, second, strict=True):
        torch.testing.assert_close(p.detach(), before - 0.5 * (0.5 * d + e))


def test_trust_shortens_a_direction_to_its_nats(tiny_llama, batch):
    model, trust = tiny_llama(layers=1), 1e-3
    found = natural_gradient(model, batch, damping=DAMPING)
    assert found.slope / 2 > trust
    NaturalGradient(model.parameters(), damping=DAMPING, trust=trust).backward(model, batch)
    g = torch.cat([p.grad.flatten() for p in model.parameters()])
    own = plain_rows(model, to_samples(batch))
    half = (DAMPING * g @ g + (own @ g).square().sum() / len(own)) / 2
    assert half.item() == pytest.approx(trust, rel=1e-7)


def test_state_goes_through_a_state_dict(tiny_llama, batch):
    def run(model, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            optimizer.backward(model, batch)
            optimizer.step()

    whole, half = tiny_llama(layers=1), tiny_llama(layers=1)
    run(whole, NaturalGradient(whole.parameters(), kind="sampled"), 4)
    before = NaturalGradient(half.parameters(), kind="sampled")
    run(half, before, 2)
    after = NaturalGradient(half.parameters(), kind="sampled", lr=9.0)
    after.load_state_dict(before.state_dict())
    run(half, after, 2)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), half.parameters(), strict=True))


def test_a_copy_has_its_settings(tiny_llama, batch):
    """The weights of a model that is copied with its optimizer are the copy's."""
    original = tiny_llama(layers=1)
    both = original, NaturalGradient(original.parameters(), damping=DAMPING, trust=0.5, kind="sampled", seed=4)
    pairs = both, copy.deepcopy(both)
    for model, optimizer in pairs:
        for _ in range(2):
            optimizer.zero_grad()
            optimizer.backward(model, batch)
            optimizer.step()
    (one, _), (other, _) = pairs
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_groups_and_a_closure(tiny_llama, batch):
    model = tiny_llama(torch.float32, layers=1)
    head = model.lm_head.weight
    others = [p for p in model.parameters() if p is not head]
    optimizer = NaturalGradient([{"params": [head], "lr": 0.0}, {"params": others}], lr=0.5)
    before, start = head.detach().clone(), model(**batch).loss.item()

    def closure():
        optimizer.zero_grad()
        return optimizer.backward(model, batch)

    assert optimizer.step(closure).item() == pytest.approx(start, rel=1e-5)
    assert torch.equal(head, before) and model(**batch).loss.item() < start


@pytest.mark.parametrize("kind", ["empirical", "sampled"])
def test_it_trains_a_language_model(kind, tiny_gpt2, batch):
    model = tiny_gpt2(torch.float32)
    lr = {"empirical": 3.0, "sampled": 0.3}[kind]
    optimizer = NaturalGradient(model.parameters(), lr=lr, damping=0.1, kind=kind, momentum=0.0)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        losses.append(optimizer.backward(model, batch).item())
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("settings", "name"), [({"damping": 0.0}, "damping"), ({"trust": -1.0}, "trust"), ({"momentum": 1.0}, "momentum")]
)
def test_bad_settings_are_named(settings, name):
    with pytest.raises(InvalidInputError, match=name):
        NaturalGradient([torch.nn.Parameter(torch.ones(1))], **settings)


def test_an_unknown_kind_is_named(tiny_llama, batch):
    with pytest.raises(InvalidInputError, match="kind"):
        natural_gradient(tiny_llama(), batch, damping=1.0, kind="exact")
