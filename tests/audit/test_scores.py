"""Token scores and divergence against dense computations; membership and bootstrap against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastunlearn.audit import _forward
from fastunlearn.audit.bootstrap import interval
from fastunlearn.audit.divergence import kl, reference_log_probs
from fastunlearn.audit.membership import auc
from fastunlearn.audit.scores import TokenScores, token_scores
from fastunlearn.data.encode import Encoded
from fastunlearn.errors import InvalidInputError


def samples(lengths=(5, 9, 3, 9), prompt=1, seed=0, vocabulary=37) -> list[Encoded]:
    """Random samples whose first ``prompt`` tokens are no targets."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for length in lengths:
        ids = torch.randint(3, vocabulary, (length,), generator=generator)
        labels = ids.clone()
        labels[:prompt] = -100
        made.append(Encoded(ids, labels))
    return made


def dense(model, sample) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities (n, V) at the target positions of one sample alone, unpadded, and the targets."""
    with torch.no_grad():
        log_probs = model(input_ids=sample.input_ids[None]).logits[0, :-1].log_softmax(1)
    wanted = sample.labels[1:] != -100
    return log_probs[wanted], sample.labels[1:][wanted]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("prompt", [0, 2])
def test_scores_equal_one_sample_at_a_time(tiny_llama, batch_size, prompt):
    model, data = tiny_llama(), samples(prompt=prompt)
    scores = token_scores(model, data, pad_token_id=0, batch_size=batch_size)
    losses, hits, tokens = [], 0, 0
    for index, sample in enumerate(data):
        log_probs, targets = dense(model, sample)
        picked = log_probs[torch.arange(len(targets)), targets]
        torch.testing.assert_close(scores.log_prob[scores.sample == index], picked)
        losses.append(-picked.mean())
        hits, tokens = hits + int((log_probs.argmax(1) == targets).sum()), tokens + len(targets)
    torch.testing.assert_close(scores.sample_losses, torch.stack(losses))
    assert scores.accuracy == hits / tokens
    assert scores.loss == pytest.approx(float(-scores.log_prob.sum()) / tokens)
    assert scores.perplexity == pytest.approx(math.exp(scores.loss))


def test_loss_is_that_of_the_model(tiny_gpt2):
    model, data = tiny_gpt2(), samples((6,), prompt=2)
    expected = model(input_ids=data[0].input_ids[None], labels=data[0].labels[None]).loss.detach()
    assert token_scores(model, data, pad_token_id=0).loss == pytest.approx(float(expected))


def test_log_odds_of_tokens():
    p = torch.tensor([0.25, 0.5, 1 - 1e-4], dtype=torch.float64)
    zeros = torch.zeros(3, dtype=torch.long)
    found = TokenScores(p.log(), zeros.bool(), zeros, 1).clamped_log_odds
    assert found.tolist() == pytest.approx((p / (1 - p)).log().tolist())
    certain = TokenScores(torch.zeros(1, dtype=torch.float64), zeros[:1].bool(), zeros[:1], 1).clamped_log_odds
    assert certain.item() == pytest.approx(16.118, abs=1e-3)  # finite, where p rounds to 1


def test_small_logits_budget_changes_nothing(tiny_llama, monkeypatch):
    model, data = tiny_llama(), samples()
    whole = token_scores(model, data, pad_token_id=0)
    batches = list(_forward.length_batches([9, 9, 5, 3], 37, batch_size=64, logits_bytes=4 * 37 * 10))
    assert [len(batch) for batch in batches] == [1, 1, 2]
    monkeypatch.setattr(_forward.length_batches, "__kwdefaults__", {"logits_bytes": 1})
    torch.testing.assert_close(token_scores(model, data, pad_token_id=0).log_prob, whole.log_prob)


def test_training_mode_comes_back_and_dropout_is_off(tiny_gpt2):
    model = tiny_gpt2(resid_pdrop=0.5).train()
    model.lm_head.eval()
    first = token_scores(model, samples(), pad_token_id=0).loss
    assert token_scores(model, samples(), pad_token_id=0).loss == first
    assert model.training and not model.lm_head.training


def test_bad_samples_are_refused(tiny_llama):
    model = tiny_llama()
    with pytest.raises(InvalidInputError, match="no samples"):
        token_scores(model, [], pad_token_id=0)
    silent = Encoded(torch.tensor([4, 5]), torch.tensor([4, -100]))
    with pytest.raises(InvalidInputError, match=r"samples\[1\]: no target"):
        token_scores(model, [*samples((4,)), silent], pad_token_id=0)
    with pytest.raises(InvalidInputError, match="batch_size=0"):
        token_scores(model, samples(), pad_token_id=0, batch_size=0)
    with torch.no_grad():
        model.lm_head.weight[3, 0] = math.nan
    with pytest.raises(InvalidInputError, match="NaN"):
        token_scores(model, samples(), pad_token_id=0)


def test_kl_equals_the_dense_sum(tiny_llama):
    reference, model, data = tiny_llama(seed=1), tiny_llama(seed=2), samples(prompt=2)
    rows = []
    for sample in data:
        p, q = dense(reference, sample)[0], dense(model, sample)[0]
        rows.append((p.exp() * (p - q)).sum(1))
    expected = float(torch.cat(rows).mean())
    assert expected > 1e-4
    assert kl(reference, model, data, pad_token_id=0, batch_size=2) == pytest.approx(expected, rel=1e-10)
    assert kl(model, reference, data, pad_token_id=0) != pytest.approx(expected, rel=1e-6)  # not symmetric
    for dtype, rel in ((torch.float64, 1e-10), (torch.float32, 1e-3), (torch.float16, 0.2)):
        cached = reference_log_probs(reference, data, pad_token_id=0, batch_size=3, dtype=dtype)
        assert kl(cached, model, data, pad_token_id=0) == pytest.approx(expected, rel=rel)


def test_kl_of_a_model_to_itself_is_zero(tiny_llama):
    model = tiny_llama(torch.float32)
    # bits and all: what a step moved is measured from there
    assert kl(model, model, samples(), pad_token_id=0) == 0
    for dtype in (torch.float32, torch.float64):
        whole = reference_log_probs(model, samples(), pad_token_id=0, dtype=dtype)
        assert kl(whole, model, samples(), pad_token_id=0) == 0
    half = reference_log_probs(model, samples(), pad_token_id=0, dtype=torch.float16)
    assert kl(half, model, samples(), pad_token_id=0) < 1e-5


def test_kl_refuses_what_cannot_be_compared(tiny_llama):
    model = tiny_llama()
    cached = reference_log_probs(model, samples(), pad_token_id=0)
    with pytest.raises(InvalidInputError, match="other samples"):
        kl(cached, model, samples(seed=1), pad_token_id=0)
    with pytest.raises(InvalidInputError, match="vocabulary"):
        kl(tiny_llama(vocab_size=41), model, samples(), pad_token_id=0)
    with pytest.raises(InvalidInputError, match="dtype"):
        reference_log_probs(model, samples(), pad_token_id=0, dtype=torch.int64)


few = st.lists(st.integers(0, 4), min_size=1, max_size=8)


@settings(deadline=None)
@given(few, few)
def test_auc_equals_the_count_of_pairs(members, others):
    pairs = [1.0 if m < o else 0.5 if m == o else 0.0 for m, o in itertools.product(members, others)]
    assert auc(members, others) == pytest.approx(sum(pairs) / len(pairs))
    assert auc(others, members) == pytest.approx(1 - auc(members, others))


def test_auc_by_hand():
    assert auc([1, 2, 2, 3], [2, 4]) == (2 + 1.5 + 1.5 + 1) / 8
    assert auc([0.1], [0.2]) == 1
    for bad in ([], [[1.0]], [math.nan]):
        with pytest.raises(InvalidInputError, match="member_losses"):
            auc(bad, [1.0])


def test_bootstrap_is_seeded_and_covers():
    data = np.random.default_rng(0).normal(3.0, 1.0, 400)
    first = interval(np.mean, data, seed=1)
    assert first == interval(np.mean, data, seed=1) != interval(np.mean, data, seed=2)
    assert first.value == pytest.approx(data.mean()) and first.low < first.value < first.high
    half_width = 1.96 * data.std() / 20
    assert first.high - first.low == pytest.approx(2 * half_width, rel=0.15)
    assert interval(np.mean, data, level=0.5).high < first.high


def test_bootstrap_of_the_auc_of_like_sets_holds_one_half():
    generator = np.random.default_rng(3)
    found = interval(auc, generator.normal(size=80), generator.normal(size=90))
    assert found.low < 0.5 < found.high
    apart = interval(auc, generator.normal(size=80), 2 + generator.normal(size=90))
    assert apart.low > 0.5


@pytest.mark.parametrize("bad", [{"level": 1.0}, {"resamples": 0}])
def test_bootstrap_refuses(bad):
    with pytest.raises(InvalidInputError):
        interval(np.mean, [1.0, 2.0], **bad)
    with pytest.raises(InvalidInputError, match="arrays"):
        interval(np.mean, [])
