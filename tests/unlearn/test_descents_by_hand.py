"""KL-regularised ascent, SimNPO and SOUL on the unigram model of test_first_order_by_hand.py; RMU on a tiny Llama."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.data.encode import Encoded
from fastunlearn.errors import InvalidInputError
from fastunlearn.operators.targets import sample_labels
from fastunlearn.unlearn import unlearn
from tests.unlearn.test_first_order_by_hand import (
    FORGET,
    LOGITS,
    RATE,
    RETAIN,
    Unigram,
    adam,
    encoded,
    log_p,
    log_p_slopes,
    mean_slope,
)

START = torch.tensor(LOGITS, dtype=torch.float64)
NEVER = {"target_accuracy": 0.0, "target_loss": 99.0}


def run(method, steps, per_step=4, **options) -> torch.Tensor:
    model = Unigram()
    found = unlearn(
        model, forget=encoded(FORGET), retain=encoded(RETAIN), method=method, learning_rate=RATE,
        gradients=steps * per_step, **NEVER, **options,
    )  # fmt: skip
    assert (found.gradients, found.steps[-1]["step"]) == (steps * per_step, steps)
    return model.vector


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("weight", [1.0, 5.0])
def test_kl_ascent(steps, weight):
    """KL(p0 || softmax(v)) has the slope softmax(v) - p0, on every token alike."""

    def slope(v):
        return mean_slope(FORGET, v) + weight * (v.softmax(0) - START.softmax(0))

    got = run("kl-ascent", steps, retain_weight=weight)
    assert torch.allclose(got, adam(slope, steps), atol=1e-12)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize(("beta", "gamma", "weight"), [(2.5, 0.0, 1.0), (0.5, 1.5, 3.0)])
def test_simnpo(steps, beta, gamma, weight):
    """The slope of -(2/beta) log sigmoid(u - gamma), u = -(beta/n) log p, is 2/n sigmoid(gamma - u) that of log p."""

    def slope(v):
        pull = torch.zeros(4, dtype=torch.float64)
        for record, value, one in zip(FORGET, log_p(FORGET, v), log_p_slopes(FORGET, v), strict=True):
            pull += 2 / len(record) * torch.sigmoid(gamma + beta * value / len(record)) * one
        return pull / len(FORGET) - weight * mean_slope(RETAIN, v)

    got = run("simnpo", steps, beta=beta, gamma=gamma, retain_weight=weight)
    assert torch.allclose(got, adam(slope, steps), atol=1e-12)


def test_soul_is_sophia_with_one_momentum_update_a_step():
    """By hand for five steps: momentum, curvature of both losses at the first, third and fifth, a clipped step."""
    weight, b1, b2, gamma, every, steps = 2.0, 0.9, 0.8, 0.7, 2, 5
    model = Unigram()
    found = unlearn(
        model, forget=encoded(FORGET), retain=encoded(RETAIN), method="soul", learning_rate=RATE, momentum=b1,
        curvature_memory=b2, curvature_every=every, gamma=gamma, retain_weight=weight, gradients=4 * (steps + 3),
        seed=3, **NEVER,
    )  # fmt: skip
    assert (found.gradients, found.steps[-1]["step"]) == (32, 5)
    hand, mean, curvature, clipped = Unigram(), torch.zeros(4).double(), torch.zeros(4).double(), []
    for step in range(steps):
        v = hand.vector.clone()
        mean = b1 * mean + (1 - b1) * (mean_slope(FORGET, v) - weight * mean_slope(RETAIN, v))
        if step % every == 0:
            seed = 3 * 1_000_003 + step
            estimate = _bartlett(hand, FORGET, seed, v) + weight * _bartlett(hand, RETAIN, seed + 500_009, v)
            curvature = b2 * curvature + (1 - b2) * estimate
        raw = mean / (gamma * curvature).clamp_min(1e-12)
        clipped += (raw.abs() > 1).tolist()
        with torch.no_grad():
            hand.head.weight[:, 0] = v - RATE * raw.clamp(-1, 1)
    assert any(clipped) and not all(clipped)
    assert torch.allclose(model.vector, hand.vector, atol=1e-12)


def _bartlett(model, records, seed, v) -> torch.Tensor:
    """B gbar^2 with the labels that the method draws. The unigram predicts all places alike, so the drawn labels of a
    batch are the same multiset, whatever the order of its records."""
    drawn = sample_labels(model, encoded(records), pad_token_id=0, batch_size=9, seed=seed)
    tokens = [one.labels[1:].tolist() for one in drawn]
    return sum(len(one) for one in tokens) * mean_slope(tokens, v).square()


def samples(seed, count) -> list[Encoded]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for length in range(4, 4 + count):
        ids = torch.randint(3, 37, (length,), generator=generator)
        found.append(Encoded(ids, torch.cat([torch.full((2,), -100), ids[2:]])))
    return found


@pytest.mark.parametrize("layer", [None, 1])
def test_rmu(tiny_llama, layer):
    """Three steps of Adam on the two distances, from the hidden states that the model itself gives."""
    model, twin, first = tiny_llama(layers=3), tiny_llama(layers=3), tiny_llama(layers=3)
    forget, retain, weight, scale = samples(0, 3), samples(1, 4), 7.0, 2.0
    unlearn(
        model, forget=forget, retain=retain, method="rmu", layer=layer, scale=scale, retain_weight=weight,
        learning_rate=RATE, gradients=21, seed=5, **NEVER,
    )  # fmt: skip

    def states(one, records):
        found = [one(r.input_ids[None], output_hidden_states=True).hidden_states[2][0] for r in records]
        return torch.cat(found)  # what leaves layer 1, which is also the one in the middle

    with torch.no_grad():
        length = states(first, forget).norm(dim=1).mean()
        kept = states(first, retain)
    direction = torch.rand(16, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    target = scale * length * direction / direction.norm()
    optimizer = torch.optim.Adam(twin.parameters(), lr=RATE)
    for _ in range(3):
        optimizer.zero_grad()
        loss = (states(twin, forget) - target).square().mean()
        (loss + weight * (states(twin, retain) - kept).square().mean()).backward()
        optimizer.step()
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7), (name, (a - b).abs().max())
    assert torch.equal(model.model.layers[2].mlp.up_proj.weight, first.model.layers[2].mlp.up_proj.weight)


def test_rmu_says_what_it_cannot_steer(tiny_llama):
    sets = {"forget": samples(0, 3), "retain": samples(1, 4), "method": "rmu"}
    with pytest.raises(InvalidInputError, match="layer=2 must be below the model's 2 layers"):
        unlearn(tiny_llama(), layer=2, **sets)
    with pytest.raises(InvalidInputError, match="none of them stands at or before layer 0"):
        unlearn(tiny_llama(), layer=0, parameters="model.layers.1.*", **sets)
    with pytest.raises(InvalidInputError, match="model of repeated layers"):
        unlearn(Unigram(), forget=encoded(FORGET), retain=encoded(RETAIN), method="rmu")
