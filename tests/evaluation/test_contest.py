"""Any method, tuned within one budget of gradients, measured against the retrained model."""

from __future__ import annotations

import json

import pytest

from fastunlearn.audit.scores import token_scores
from fastunlearn.data.encode import encode
from fastunlearn.evaluation.contest import Contest
from fastunlearn.evaluation.datasets import make_dataset
from fastunlearn.evaluation.subject import make_subject
from fastunlearn.evaluation.trials import budget_of, trial_settings
from fastunlearn.unlearn import METHODS, keep_fisher
from tests.unlearn.unchanged import bits, same_bits


def test_the_subject_knows_what_it_should(subject):
    pad = {"pad_token_id": 0}
    original, reference = subject.original.model, subject.reference.model
    assert token_scores(original, subject.forget, **pad).accuracy > 0.9
    assert token_scores(reference, subject.forget, **pad).accuracy < 0.5
    assert token_scores(reference, subject.retain, **pad).accuracy > 0.9
    assert len(subject.fresh) == 6 and subject.original.log.gradients == subject.reference.log.gradients


def test_models_are_kept_and_taken_up_again(tmp_path):
    data = make_dataset("personal", seed=0, forget=3, retain=3, held_out=2, fresh=2)
    sizes = {"layers": 1, "width": 16, "steps": 2}
    first = make_subject(data, 0, keep=tmp_path, **sizes)
    (tmp_path / "retrained" / "config.json").touch()
    second = make_subject(data, 0, keep=tmp_path, **sizes)
    for name in ("original", "reference"):
        a, b = getattr(first, name), getattr(second, name)
        assert a.log == b.log and a.seconds == b.seconds
        assert all(x.equal(y) for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True))
    assert len(second.canaries) == 3


def test_repeated_records_are_learnt_as_often(monkeypatch):
    from fastunlearn.evaluation import subject as module

    seen = []
    monkeypatch.setattr(module, "train_one", lambda what, make, tokenizer, samples, **rest: seen.append(len(samples)))
    data = make_dataset("personal", seed=0, forget=3, retain=3, held_out=2, fresh=2)
    make_subject(data, 0)
    assert seen == [42, 21]  # 1 + 4 + 16 on either side


@pytest.mark.parametrize("name", ["fisher-removal", "soul", "simnpo", "win-u", "newton"])
def test_a_tuned_method(subject, name):
    contest = Contest(subject, traced=8)
    before = bits(subject.original.model)
    budget = budget_of(len(subject.forget), len(subject.retain))
    grid = trial_settings(name, trials=2, budget=budget, forget=len(subject.forget), retain=len(subject.retain), seed=0)
    kept = None
    if METHODS[name].uses_kept:
        kept = keep_fisher(subject.original.model, None, subject.forget + subject.retain, rank=16, damping=1e-3)
    best = contest.run_tuned(name, budget, grid, kept=kept)
    assert same_bits(bits(subject.original.model), before)
    item = contest.methods[name]
    json.dumps(item, allow_nan=False)
    assert item["gradients"] <= budget and item["settings"]["trials"] == 2
    assert len(item["frontier"]) >= 2 and best.result is not None
    scores = token_scores(contest.model, subject.forget, pad_token_id=0)
    assert scores.accuracy == item["forget_accuracy"]
    if kept is not None:
        assert {point["settings"]["damping"] for point in item["frontier"]} == {1e-3, grid[1]["damping"]}
        assert item["uses_retain"] is False


def test_encoded_sets_are_what_the_tokenizer_makes(subject):
    data = make_dataset("questions", seed=0, forget_people=1, retain_people=4, held_out_people=4, fresh=6)
    again = encode(data.forget, subject.tokenizer, max_length=data.context)
    assert all(a.input_ids.equal(b.input_ids) for a, b in zip(again, subject.forget, strict=True))
