"""DP-SGD: clipping against per-sample gradients taken one by one and by Opacus; noise; what it costs."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from fastunlearn import private_training
from fastunlearn.data.encode import Encoded
from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.private_training import clipped_sum, epsilon, train_private

pytest.importorskip("opacus", reason="needs the extra 'private'")


class Bigram(torch.nn.Module):
    """Logits of the next token from the present one; plain layers, which Opacus knows."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(11, 6)
        self.norm = torch.nn.LayerNorm(6)
        self.head = torch.nn.Linear(6, 11)

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask=None, use_cache=False):
        return SimpleNamespace(logits=self.head(self.norm(self.embedding(input_ids))))


def samples(count=7, length=6) -> list[Encoded]:
    ids = torch.randint(1, 11, (count, length), generator=torch.Generator().manual_seed(4))
    return [Encoded(row, row) for row in ids]


def rows(model, found) -> torch.Tensor:
    """Gradients of each record's summed loss, one by one (m, P)."""
    gradients = []
    for one in found:
        logits = model(one.input_ids[None]).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, one.labels[1:], reduction="sum")
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    return torch.stack(gradients)


def flat(vector) -> torch.Tensor:
    return torch.cat([part.flatten() for part in vector.values()])


@pytest.mark.parametrize("max_norm", [0.5, 6.4, 100.0])
def test_the_clipped_sum(max_norm):
    model, found = Bigram().double(), samples()
    each = rows(model, found)
    factors = (max_norm / each.norm(dim=1)).clamp_max(1)
    got = flat(clipped_sum(SampleGradients(model, found, pad_token_id=0), max_norm))
    assert torch.allclose(got, factors @ each, atol=1e-10)
    assert bool((factors < 1).all()) == (max_norm < 1) and bool((factors < 1).any()) == (max_norm < 100)


def test_it_is_opacus_clipped_sum():
    from opacus.grad_sample import GradSampleModule

    model, found, max_norm = Bigram(), samples(), 6.4
    wrapped = GradSampleModule(Bigram(), loss_reduction="sum")
    wrapped._module.load_state_dict(model.state_dict())
    ids = torch.stack([one.input_ids for one in found])
    logits = wrapped(ids).logits[:, :-1]
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum").backward()
    each = torch.cat([p.grad_sample.flatten(1) for p in wrapped.parameters()], 1)
    expected = (max_norm / each.norm(dim=1)).clamp_max(1) @ each
    got = flat(clipped_sum(SampleGradients(model, found, pad_token_id=0), max_norm))
    assert torch.allclose(got, expected, atol=1e-5)


def test_the_accountant_by_the_gaussian_mechanism():
    """Every record in every step: one Gaussian mechanism of noise sigma / sqrt(steps), whose Renyi divergence of order
    a is a steps / (2 sigma^2); its epsilon is at most rdp + log(1/delta)/(a - 1) at the best a, and grows with the
    steps."""
    sigma, steps, delta = 4.0, 10, 1e-5
    best = min(a * steps / (2 * sigma**2) + math.log(1 / delta) / (a - 1) for a in torch.arange(1.1, 64, 0.1).tolist())
    found = epsilon(noise=sigma, sample_rate=1.0, steps=steps, delta=delta)
    assert 0.7 * best < found <= best
    assert epsilon(noise=sigma, sample_rate=0.1, steps=steps, delta=delta) < 0.3 * found
    assert epsilon(noise=sigma, sample_rate=1.0, steps=2 * steps, delta=delta) > found


def test_with_next_to_no_noise_it_learns_and_with_much_it_does_not():
    found, logs = samples(6), []
    for noise in (1e-6, 50.0):
        torch.manual_seed(0)
        model = Bigram()
        logs.append(
            train_private(
                model,
                found,
                steps=80,
                batch_size=4,
                noise=noise,
                max_norm=1.0,
                learning_rate=0.05,
                seed=1,
                pad_token_id=0,
            )
        )
        assert not model.training and all(p.grad is None for p in model.parameters())
    quiet, loud = (sum(log.losses[-10:]) / 10 for log in logs)
    assert quiet < 0.6 * logs[0].losses[0] and loud > logs[1].losses[0] * 0.95
    assert logs[1].epsilon < 1 < logs[0].epsilon and logs[0].steps == 80
    assert logs[0].gradients == logs[1].gradients and 0.8 * 320 < logs[0].gradients < 1.2 * 320


def test_the_same_seed_gives_the_same_weights():
    found, weights = samples(6), []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        model = Bigram()
        train_private(model, found, steps=3, batch_size=3, noise=1.0, seed=seed, pad_token_id=0)
        weights.append(flat(dict(model.named_parameters())))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_bad_arguments():
    with pytest.raises(InvalidInputError, match="noise=0"):
        train_private(Bigram(), samples(), steps=1, batch_size=2, noise=0, seed=0, pad_token_id=0)
    with pytest.raises(InvalidInputError, match="batch_size=9 must be at most"):
        train_private(Bigram(), samples(), steps=1, batch_size=9, noise=1.0, seed=0, pad_token_id=0)
    with pytest.raises(InvalidInputError, match=r"delta=1\.5 must lie between 0 and 1"):
        train_private(Bigram(), samples(), steps=1, batch_size=2, noise=1.0, delta=1.5, seed=0, pad_token_id=0)
    silent = Encoded(torch.arange(1, 5), torch.full((4,), -100))
    with pytest.raises(InvalidInputError, match="sample 8 of samples has no target"):
        train_private(Bigram(), [*samples(), silent], steps=1, batch_size=2, noise=1.0, seed=0, pad_token_id=0)


def test_no_privacy_is_better_than_all_of_it():
    assert epsilon(noise=1.0, sample_rate=0.5, steps=10, delta=0.99) == 0.0


def test_without_opacus_the_mend_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "opacus.accountants", None)
    with pytest.raises(InvalidInputError, match="pip install opacus"):
        private_training.epsilon(noise=1.0, sample_rate=0.1, steps=1, delta=1e-5)
