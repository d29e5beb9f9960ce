"""Exposure against brute-force scoring of every candidate, and the dictionary of measure."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch

from fastunlearn.audit.exposure import candidate_log_probs, exposure
from fastunlearn.audit.measure import cache_reference, measure
from fastunlearn.audit.metrics import MeasuredModel
from fastunlearn.audit.scores import token_scores
from fastunlearn.data.encode import encode
from fastunlearn.data.people import Canary, generate_people
from fastunlearn.data.records import Record
from fastunlearn.data.tokenizer import train_tokenizer
from fastunlearn.errors import InvalidInputError
from fastunlearn.progress import Progress, Task


@pytest.fixture(scope="module")
def people():
    return generate_people(people=8, facts=2, forget_people=3, held_out_people=4, canaries=4, canary_digits=2)


@pytest.fixture(scope="module")
def tokenizer(people):
    return train_tokenizer(people.texts(), kind="words")


@pytest.fixture
def model(tiny_llama, tokenizer):
    return tiny_llama(vocab_size=len(tokenizer))


@pytest.fixture
def sets(people, tokenizer):
    return {name: encode(getattr(people, name), tokenizer, max_length=32)
            for name in ("forget", "retain", "held_out")}  # fmt: skip


def brute_force(model, tokenizer, canary, add_bos=True) -> torch.Tensor:
    """Each candidate's log-probability, from a forward pass of its own."""
    records = [Record(canary.record.prompt, candidate) for candidate in canary.candidates]
    encoded = encode(records, tokenizer, max_length=32, add_bos=add_bos)
    return torch.tensor(
        [float(token_scores(model, [one], pad_token_id=0).log_prob.sum()) for one in encoded],
        dtype=torch.float64,
    )


@pytest.mark.parametrize("kind", ["words", "bpe"])
@pytest.mark.parametrize("add_bos", [True, False])
def test_exposure_equals_brute_force(tiny_llama, people, kind, add_bos):
    tokenizer = train_tokenizer(people.texts(), kind=kind, vocab_size=400)
    model = tiny_llama(vocab_size=len(tokenizer), max_position_embeddings=64)
    for canary in people.canaries[:2]:
        short = Canary(Record("code of", canary.secret), canary.secret, canary.candidates)
        expected = brute_force(model, tokenizer, short, add_bos)
        found = candidate_log_probs(model, tokenizer, short, batch_size=7, add_bos=add_bos)
        torch.testing.assert_close(found, expected)
        secret = expected[canary.candidates.index(canary.secret)]
        rank = 1 + int((expected > secret).sum())
        result = exposure(model, tokenizer, short, add_bos=add_bos)
        assert (result.rank, result.candidates) == (rank, 100)
        assert result.bits == pytest.approx(math.log2(100 / rank))


def test_the_padding_token_given_serves_where_the_tokenizer_has_none(model, tokenizer, people, sets, monkeypatch):
    found = measure(model, **sets, canaries=people.canaries, tokenizer=tokenizer)["exposure"]
    bare = copy.deepcopy(tokenizer)
    bare.pad_token = None
    given = {"canaries": people.canaries, "pad_token_id": 2}
    assert measure(model, **sets, tokenizer=bare, **given)["exposure"] == found
    assert MeasuredModel(model, bare, sets, **given).exposures["forget"].tolist() == [
        one["bits"] for one in found if one["forgotten"]
    ]


def test_candidates_of_different_lengths(model, tokenizer):
    candidates = [" 1", " 1 2", " 2 1 3", " 3"]
    canary = Canary(Record("code", " 1 2"), " 1 2", candidates)
    torch.testing.assert_close(
        candidate_log_probs(model, tokenizer, canary), brute_force(model, tokenizer, canary)
    )


def test_one_thousand_candidates_share_their_prefixes(model, tokenizer):
    canary = generate_people(people=4, facts=1, forget_people=1, canaries=1, held_out_people=0).canaries[0]
    rows = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    exposure(model, tokenizer, canary)
    assert sum(rows) == 100


def test_a_model_that_knows_nothing_gives_the_middle_rank(model, tokenizer, people):
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert exposure(model, tokenizer, people.canaries[0]).rank == 50.5


def test_a_learnt_secret_is_exposed(model, tokenizer, people):
    canary = people.canaries[0]
    sample = encode([canary.record], tokenizer, max_length=32)[0]
    before = exposure(model, tokenizer, canary).bits
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(30):
        optimizer.zero_grad()
        model(input_ids=sample.input_ids[None], labels=sample.labels[None]).loss.backward()
        optimizer.step()
    assert exposure(model, tokenizer, canary).rank == 1
    assert before < exposure(model, tokenizer, canary).bits == pytest.approx(math.log2(100))


def test_bad_canaries(model, tokenizer, people):
    record = people.canaries[0].record
    with pytest.raises(InvalidInputError, match="not among"):
        exposure(model, tokenizer, Canary(record, " 1", [" 2", " 3"]))
    with pytest.raises(InvalidInputError, match="all different"):
        exposure(model, tokenizer, Canary(record, " 1", [" 1", " 1"]))
    with pytest.raises(InvalidInputError, match="same tokens"):
        exposure(model, tokenizer, Canary(record, " zebra", [" zebra", " yak"]))


def test_measure_is_complete_json_and_agrees_with_its_parts(model, tiny_llama, tokenizer, people, sets):
    other = tiny_llama(vocab_size=len(tokenizer), seed=5)
    arguments = {**sets, "canaries": people.canaries, "tokenizer": tokenizer, "resamples": 50}
    result = measure(model, reference=other, **arguments)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    scores = token_scores(model, sets["retain"], pad_token_id=0)
    assert result["retain"]["loss"] == scores.loss and result["retain"]["samples"] == len(sets["retain"])
    assert [one["forgotten"] for one in result["exposure"]] == [True, True, False, False]
    bits = [exposure(model, tokenizer, canary).bits for canary in people.canaries]
    assert result["exposure_forget"] == pytest.approx(sum(bits[:2]) / 2)
    assert result["exposure_retain"] == pytest.approx(sum(bits[2:]) / 2)
    assert result["membership"]["low"] <= result["membership"]["auc"] <= result["membership"]["high"]
    cached = cache_reference(other, **sets, pad_token_id=0, dtype=torch.float64)
    again = measure(model, reference=cached, **arguments)
    for name in sets:
        assert 0 < again[f"kl_{name}"] == pytest.approx(result[f"kl_{name}"], rel=1e-9)


def test_measure_of_the_reference_itself_is_zero(model, sets):
    result = measure(model, **sets, reference=model, pad_token_id=0, resamples=10)
    assert result["kl_forget"] == result["kl_retain"] == result["kl_held_out"] == 0


def test_progress_counts_to_the_end(model, sets, people, tokenizer):
    done = []

    class Count(Task):
        def advance(self, n=1):
            done.append(n)

    class Counting(Progress):
        def task(self, description, total, unit="sample"):
            self.total = total
            return Count()

    progress = Counting()
    measure(model, **sets, canaries=people.canaries, tokenizer=tokenizer, resamples=5, progress=progress)
    assert sum(done) == progress.total == sum(map(len, sets.values())) + len(people.canaries)


def test_what_was_not_given_is_none(model, sets):
    result = measure(model, forget=sets["forget"], pad_token_id=0)
    assert all(
        result[key] is None
        for key in ("retain", "held_out", "kl_forget", "kl_retain", "exposure_forget", "membership")
    )
    assert result["exposure"] == []


def test_a_huge_loss_has_no_perplexity(model, sets):
    with torch.no_grad():
        model.lm_head.weight.mul_(1e5)
    result = measure(model, forget=sets["forget"], pad_token_id=0)
    assert result["forget"]["perplexity"] is None and result["forget"]["loss"] > 710


def test_measure_refuses(model, sets, tokenizer, people):
    with pytest.raises(InvalidInputError, match="pad_token_id"):
        measure(model, **sets)
    with pytest.raises(InvalidInputError, match="held_out: samples: no samples"):
        measure(model, forget=sets["forget"], held_out=[], pad_token_id=0)
    with pytest.raises(InvalidInputError, match="tokenizer"):
        measure(model, **sets, pad_token_id=0, canaries=people.canaries)
    with pytest.raises(InvalidInputError, match="lacks retain, held_out"):
        cached = cache_reference(model, forget=sets["forget"], pad_token_id=0)
        measure(model, **sets, pad_token_id=0, reference=cached)
    with pytest.raises(InvalidInputError, match=r"canaries\[0\].*neither"):
        measure(model, forget=sets["held_out"], tokenizer=tokenizer, canaries=people.canaries[:1])


def test_shared_passes_equal_those_of_each_sample(tiny_llama):
    """Of different lengths, with one last token or several behind one context, and targets from the start or late."""
    from fastunlearn.audit._shared import shared_log_probs
    from fastunlearn.data.encode import Encoded

    model, rows = tiny_llama(), [[1, 4, 5], [1, 4, 6], [1, 4], [1, 7, 5, 6], [1, 7, 5, 8], [9, 4, 5]]
    data = [Encoded(torch.tensor(ids), torch.tensor([*ids[:0], -100, *ids[1:]])) for ids in rows]
    data.append(Encoded(data[3].input_ids, torch.tensor([-100, -100, -100, 6])))
    expected = token_scores(model, data, pad_token_id=0).sample_log_probs
    for batch_size in (1, 64):
        torch.testing.assert_close(shared_log_probs(model, data, pad_token_id=0, batch_size=batch_size), expected)
    open_end = Encoded(torch.tensor([1, 4, 5]), torch.tensor([-100, 4, -100]))
    with pytest.raises(InvalidInputError, match=r"samples\[0\]: its last token is not a target"):
        shared_log_probs(model, [open_end], pad_token_id=0)
