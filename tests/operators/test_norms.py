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
@pytest.mark.parametrize("memory", ["1GB", 80_000])
def test_norms_equal_autograd(kind, tied, memory, request):
    model, data = request.getfixturevalue(kind)(tied=tied), samples()
    found = squared_norms(SampleGradients(model, data, pad_token_id=0, batch_size=2, memory=memory))
    assert found.tolist() == pytest.approx(by_autograd(model, data), rel=1e-9)


def test_both_ways_are_taken_and_agree(tiny_llama, monkeypatch):
    """The short samples by pairs of tokens, the long one (31 tokens of 16 to 24 wide) by forming."""
    model, data, seen = tiny_llama(torch.float32), samples(), set()
    plain = torch.bmm

    def counting(a, b):
        seen.add(a.shape[1] == b.shape[2] and torch.equal(a, b.transpose(1, 2)))
        return plain(a, b)

    monkeypatch.setattr(norms.torch, "bmm", counting)
    found = squared_norms(SampleGradients(model, data, pad_token_id=0))
    assert seen == {True, False}
    assert found.tolist() == pytest.approx(by_autograd(tiny_llama(), data), rel=1e-4)
