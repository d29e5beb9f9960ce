"""Norms of per-sample gradients against autograd, one sample at a time."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.data.encode import Encoded
from fastunlearn.operators import norms
from fastunlearn.operators.norms import squared_norms
from fastunlearn.operators.sample_gradients import SampleGradients


def samples(lengths=(3, 31, 7, 7, 12), seed=0) -> list[Encoded]:
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(3, 37, (length,), generator=generator) for length in lengths]
    return [Encoded(ids, torch.where(torch.arange(len(ids)) < 2, -100, ids)) for ids in drawn]


def by_autograd(model, data) -> list[float]:
    found = []
    for sample in data:
        logits = model(sample.input_ids[None]).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, sample.labels[1:], ignore_index=-100, reduction="sum")
        gradients = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
        found.append(sum(float(g.double().square().sum()) for g in gradients))
    return found


@pytest.mark.parametrize("kind", ["tiny_llama", "tiny_gpt2"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("memory", ["1GB", 400_000])
def test_norms_equal_autograd(kind, tied, memory, request):
    model, data = request.getfixturevalue(kind)(tied=tied), samples()
    found = squared_norms(SampleGradients(model, data, pad_token_id=0, batch_size=2, memory=memory))
    assert found.tolist() == pytest.approx(by_autograd(model, data), rel=1e-9)


@pytest.mark.parametrize("tied", [True, False])
def test_both_ways_are_taken_and_agree(tiny_llama, monkeypatch, tied):
    """Samples of few tokens by pairs; where every sample is long, by forming."""
    model, seen = tiny_llama(torch.float32, tied=tied), []
    pairs, formed = norms._by_pairs, norms.tiles
    monkeypatch.setattr(norms, "_by_pairs", lambda *a: seen.append("pairs") or pairs(*a))
    monkeypatch.setattr(norms, "tiles", lambda *a, **k: seen.append("formed") or formed(*a, **k))
    for lengths in ((4, 4, 5), (31, 32)):
        data = samples(lengths)
        found = squared_norms(SampleGradients(model, data, pad_token_id=0))
        assert found.tolist() == pytest.approx(by_autograd(tiny_llama(tied=tied), data), rel=1e-4)
        layers = 14 + (1 if tied else 2)
        assert seen.count("pairs") == (layers if lengths[0] == 4 else 0), (lengths, seen)
        seen.clear()


def test_a_token_that_comes_twice_in_a_tied_embedding(tiny_llama):
    """Equal tokens meet in the embedding, and meet themselves as targets of the output layer."""
    ids = torch.tensor([5, 9, 5, 5, 9, 7])
    data = [Encoded(ids, ids), Encoded(ids.flip(0), torch.where(torch.arange(6) < 3, -100, ids.flip(0)))]
    model = tiny_llama(tied=True)
    found = squared_norms(SampleGradients(model, data, pad_token_id=0))
    assert found.tolist() == pytest.approx(by_autograd(model, data), rel=1e-9)
