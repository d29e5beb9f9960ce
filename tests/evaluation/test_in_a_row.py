"""Requests in a row: what they share, and what is written down after each."""

from __future__ import annotations

import copy
import json

import pytest

from fastunlearn.audit.divergence import reference_log_probs
from fastunlearn.data import train_tokenizer
from fastunlearn.data.encode import encode
from fastunlearn.errors import InvalidInputError
from fastunlearn.evaluation.in_a_row import SORTS, make_requests, run_in_a_row
from fastunlearn.evaluation.small_model import make_model
from fastunlearn.training import train


def people_of(records) -> set[str]:
    """Last names, which are invented and one to a person."""
    return {word for record in records for word in record.prompt.replace(",", " ").split() if word[0].isupper()}


def test_requests_share_people_facts_and_records():
    found = make_requests(20, others=3, held_out=2, seed=1)
    assert [one.sort for one in found.asked] == list(SORTS) * 4
    for turn in range(4):
        own, part, rest, fact, again = found.asked[5 * turn : 5 * turn + 5]
        assert [len(one.records) for one in (own, part, rest, fact, again)] == [4, 2, 2, 4, 6]
        assert len(people_of(part.records) & people_of(rest.records)) >= 2 and not set(part.records) & set(rest.records)
        assert again.earlier == 2 and again.records[:2] == own.records[:2]
        assert len(people_of(fact.records)) >= 4  # one record each
    asked = {record for one in found.asked for record in one.records}
    assert len(asked) == 4 * 16  # of each turn's 18 two are asked for twice
    assert len(found.kept) == 4 * 4 * 3 + 3 * 4  # the other facts of those asked for one, and of the others all
    assert not asked & set(found.kept) and asked | set(found.kept) == set(found.people.forget + found.people.retain)


def test_a_wrong_count():
    with pytest.raises(InvalidInputError, match="multiple of 5"):
        make_requests(7)


@pytest.fixture(scope="module")
def learnt():
    found = make_requests(5, others=6, held_out=6, seed=0)
    tokenizer = train_tokenizer(found.people.texts())
    samples = encode(found.people.forget + found.people.retain, tokenizer, max_length=32)
    model = make_model(tokenizer, 0, layers=1, width=32)
    train(model, samples, steps=200, batch_size=16, learning_rate=1e-2, seed=0, pad_token_id=0)
    asked = [encode(one.records, tokenizer, max_length=32) for one in found.asked]
    held_out = encode(found.people.held_out, tokenizer, max_length=32)
    return model, asked, samples, held_out


def test_what_is_measured_after_each(learnt):
    model, asked, samples, held_out = learnt
    model = copy.deepcopy(model)
    truth, seen = reference_log_probs(model, samples[-8:], pad_token_id=0), []
    found = run_in_a_row(
        model, asked, learnt=samples, held_out=held_out, method="fisher-removal", pad_token_id=0,
        reference=(truth, samples[-8:]), fresh=held_out[:4], on_request=seen.append, steps=4, damping=1e-4,
    )  # fmt: skip
    assert found == seen and [one["request"] for one in found] == [1, 2, 3, 4, 5]
    json.dumps(found, allow_nan=False)
    assert [one["records"] for one in found] == [4, 2, 2, 4, 6]
    assert found[0]["asked_before"] > 0.9 and found[0]["asked"] == found[0]["gone"] < 0.8
    assert found[0]["to_come"] > 0.7 and found[-1]["to_come"] is None
    assert all(one["kl_kept"] > 0 and one["kl_fresh"] > 0 for one in found)
    assert found[4]["asked_before"] < found[0]["asked_before"]  # two of its records were gone before


def test_the_retained_records_are_those_not_asked_for_so_far(learnt, monkeypatch):
    from fastunlearn.evaluation import in_a_row as module

    model, asked, samples, held_out = learnt
    calls = []

    class Result:
        gradients, seconds, stopped = 0, 0.0, "-"

    def fake(model, tokenizer, *, forget, retain, **rest):
        calls.append((len(forget), len(retain), rest["seed"]))
        return Result

    monkeypatch.setattr(module, "unlearn", fake)
    run_in_a_row(model, asked, learnt=samples, held_out=held_out, method="npo", pad_token_id=0, seed=3)
    n = len(samples)
    assert calls == [(4, n - 4, 3), (2, n - 6, 4), (2, n - 8, 5), (4, n - 12, 6), (6, n - 16, 7)]
