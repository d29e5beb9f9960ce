"""The attacks on a model that remembers, on one that never knew, and what every attack must leave alone."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch

from fastunlearn.audit.attacks import ATTACKS, AttackedReference, relearn, run_attacks
from fastunlearn.audit.attacks.logistic import fit_logistic
from fastunlearn.audit.attacks.outcome import Outcome, Scores, compare
from fastunlearn.audit.attacks.sample import SampleSettings, sample
from fastunlearn.audit.attacks.states import folds_of
from fastunlearn.audit.attacks.target import Target
from fastunlearn.audit.bootstrap import interval
from fastunlearn.audit.membership import auc
from fastunlearn.data import Record, collate, encode
from fastunlearn.data.encode import Encoded
from fastunlearn.errors import InvalidInputError

FEW = {"resamples": 40, "seed": 1}
SETTINGS = {"relearn": {"share": 0.2, "steps": 8, "learning_rates": [1e-3]}, "sample": {"draws": 5}}


@pytest.fixture(scope="module")
def found(trained):
    """All attacks on the original model, beside the retrained one, with what they must not change."""
    kept = [copy.deepcopy(model.state_dict()) for model in (trained.original, trained.retrained)]
    trained.original.train()
    state = torch.random.get_rng_state()
    result = run_attacks(
        trained.original, trained.tokenizer, trained.sets, reference=trained.retrained, variants=trained.variants,
        settings=SETTINGS, **FEW,
    )  # fmt: skip
    assert torch.equal(state, torch.random.get_rng_state())
    assert trained.original.training and not trained.retrained.training
    trained.original.eval()
    for model, before in zip((trained.original, trained.retrained), kept, strict=True):
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    return result


def test_all_attacks_ran_and_are_ready_for_json(found):
    assert list(found) == list(ATTACKS)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for name, one in found.items():
        assert tuple(one["measures"]) == ATTACKS[name].measures
        for measure in one["measures"].values():
            for side in ("model", "reference"):
                before, after, regained = (measure[side][part]["value"] for part in ("before", "after", "regained"))
                assert regained == pytest.approx(after - before) and 0 <= before <= 1 and 0 <= after <= 1
            gains = [measure[side]["regained"]["value"] for side in ("model", "reference")]
            assert measure["excess"]["value"] == pytest.approx(gains[0] - gains[1])


def test_what_the_models_know_shows(found):
    def value(attack: str, measure: str, side: str, part: str) -> float:
        return found[attack]["measures"][measure][side][part]["value"]

    for attack in ("quantise-int8", "quantise-nf4", "quantise-int4"):
        assert value(attack, "accuracy", "model", "before") > 0.9
        assert value(attack, "accuracy", "reference", "after") < 0.6
    assert value("quantise-int8", "accuracy", "model", "after") > 0.9
    assert value("prefix", "tokens", "model", "after") == 1 and found["prefix"]["records"] == 1  # the canary alone
    assert value("paraphrase", "accuracy", "model", "before") > 0.9 and found["paraphrase"]["records"] == 12
    assert value("paraphrase", "best_accuracy", "model", "after") >= value("paraphrase", "accuracy", "model", "after")
    assert value("sample", "exact", "model", "after") > 0.9 > value("sample", "exact", "reference", "after")
    assert found["relearn"]["records"] == 10 and found["relearn"]["facts"]["shown"] == 3
    assert value("probe-membership", "auc", "model", "before") > 0.9


def test_relearning_brings_back_what_gradient_ascent_only_hid(trained):
    """A few steps of ascent hide the answers of a model that knows them; three records bring most of the others back.
    A model that never knew them gains next to nothing from the same three: the attack tells the two apart."""
    hidden = copy.deepcopy(trained.original)
    batch = collate(trained.sets["forget"], pad_token_id=0)
    optimizer = torch.optim.AdamW(hidden.parameters(), lr=1e-3)
    for _ in range(8):
        optimizer.zero_grad()
        (-hidden(**batch).loss).backward()
        optimizer.step()
    found = run_attacks(
        hidden, trained.tokenizer, trained.sets, ["relearn"], reference=trained.retrained,
        settings={"relearn": {"share": 0.2, "steps": 40, "learning_rates": [3e-4, 1e-3]}}, resamples=40,
    )["relearn"]["measures"]["probability"]  # fmt: skip
    assert found["model"]["before"]["value"] < 0.5
    assert found["model"]["regained"]["value"] > 0.1 > 0.05 > found["reference"]["regained"]["value"]
    assert found["excess"]["low"] > 0


def test_relearning_measures_only_what_was_not_shown(trained, monkeypatch):
    shown = []

    def keep(model, samples, **options):
        shown.extend(samples)

    monkeypatch.setattr(relearn, "train", keep)
    target = Target(trained.original, trained.tokenizer, trained.sets, {}, 0, 64, 5)
    found = relearn.relearn(target, relearn.RelearnSettings(learning_rates=(1e-3,)))
    assert len(shown) == 1 and found.records == len(trained.sets["forget"]) - 1
    scores = target.recall(trained.original, [one for one in trained.sets["forget"] if one is not shown[0]])
    assert np.array_equal(found.measures["probability"][0], scores["probability"])
    assert np.array_equal(*found.measures["probability"])  # nothing was trained


def test_a_rate_that_diverges_is_told_and_only_all_of_them_are_an_error(trained):
    target = Target(trained.original, trained.tokenizer, trained.sets, {}, 0, 64, 0)
    found = relearn.relearn(target, relearn.RelearnSettings(steps=3, learning_rates=(1e30, 1e-4)))
    assert found.facts["learning_rate"] == 1e-4 and found.facts["diverged"] == [1e30]
    with pytest.raises(InvalidInputError, match="none can be trained with"):
        relearn.relearn(target, relearn.RelearnSettings(steps=3, learning_rates=(1e30,)))


def test_the_chance_of_the_answer_is_that_of_drawing_it(trained):
    """1 - (1 - p)^draws against the share of many draws that are the answer."""
    target = Target(trained.retrained, trained.tokenizer, {"forget": trained.sets["held_out"][:4]}, {}, 0, 4000, 0)
    from fastunlearn.audit.generation import generate, prompt_and_answer

    exact = sample(target, SampleSettings(draws=1, temperature=3.0)).measures["exact"][1]
    parts = [prompt_and_answer(one) for one in target.sets["forget"]]
    drawn = generate(target.model, [p for p, _ in parts], [len(a) for _, a in parts], temperature=3.0, draws=2000)
    shares = [np.mean([torch.equal(one, a) for one in some]) for some, (_, a) in zip(drawn, parts, strict=True)]
    assert exact == pytest.approx(shares, abs=4 * (0.25 / 2000) ** 0.5) and exact.max() > 0
    twice = sample(target, SampleSettings(draws=2, temperature=3.0)).measures["exact"][1]
    assert twice == pytest.approx(1 - (1 - exact) ** 2)


def test_a_prefix_helps_where_the_answer_is_only_known_from_its_start(tiny_llama):
    """A rule instead of a model: after token t comes t + 1. It does not know where to start, but goes on."""
    from fastunlearn.audit.attacks.prefix import PrefixSettings, prefix
    model = tiny_llama()

    def count(input_ids, **_):
        logits = torch.nn.functional.one_hot((input_ids + 1) % 37, 37).double()
        return type("Output", (), {"logits": logits})()

    model.forward = count
    ids = torch.tensor([1, 9, 20, 21, 22, 23])
    tokenizer = type("Tokenizer", (), {"eos_token_id": None})()
    sets = {"forget": [Encoded(ids, torch.tensor([-100, -100, 20, 21, 22, 23]))]}
    found = prefix(Target(model, tokenizer, sets, {}, 0, 8, 0), PrefixSettings())
    assert found.measures == {"tokens": (pytest.approx([0]), pytest.approx([1])), "exact": (0, 1)}


def test_an_end_token_after_the_answers_changes_nothing_in_what_is_written(trained):
    """Nothing that is written holds it, and it says nothing of the record."""
    plain = trained.sets["forget"]
    eos = torch.tensor([trained.tokenizer.eos_token_id])
    ended = [Encoded(torch.cat([one.input_ids, eos]), torch.cat([one.labels, eos])) for one in plain]
    alone = Encoded(torch.cat([plain[0].input_ids[:3], eos]), torch.cat([torch.full((3,), -100), eos]))
    names, options = ["prefix", "sample"], {"settings": {"sample": {"draws": 5}}, **FEW}
    found, expected = (
        run_attacks(trained.original, trained.tokenizer, {"forget": some}, names, **options)
        for some in ([*ended, alone], plain)
    )
    assert found == expected and found["sample"]["measures"]["exact"]["model"]["before"]["value"] > 0.9
    for name, words in (("prefix", "two tokens"), ("sample", "before their end token")):
        with pytest.raises(InvalidInputError, match=words):
            run_attacks(trained.original, trained.tokenizer, {"forget": [alone]}, [name], **FEW)


def test_logistic_regression_finds_the_minimum():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 50, 0.1]) + 7
    y = (x[:, 0] + 0.5 * torch.randn(40, generator=generator, dtype=torch.float64) > 7).long()
    scores = fit_logistic(x, y, 2, penalty=0.1)(x)
    rows = (x - x.mean(0)) / x.std(0, correction=0)
    # at the minimum the gradient in the weights, rows^T (p - onehot) / n, equals minus the penalty times the weights,
    # which follow from the scores
    residual = (scores.softmax(1) - torch.nn.functional.one_hot(y, 2)) / 40
    weights = torch.linalg.lstsq(torch.cat([rows, torch.ones(40, 1, dtype=torch.float64)], 1), scores).solution[:3]
    torch.testing.assert_close(rows.T @ residual, -0.1 * weights, atol=1e-5, rtol=0)
    torch.testing.assert_close(residual.sum(0), torch.zeros(2, dtype=torch.float64), atol=1e-5, rtol=0)
    assert float((scores.argmax(1) == y).double().mean()) > 0.8


def test_folds_are_even_and_drawn():
    found = folds_of(11, 4, 0)
    assert sorted(torch.bincount(found).tolist()) == [2, 3, 3, 3] and not torch.equal(found, folds_of(11, 4, 1))


def test_comparison_by_hand():
    # model 0, 0 -> 1, 1/2 (regains 3/4); reference 0, 0 -> 1/2, 0 (1/4): excess 1/2, ratio 3, after 3
    own = Outcome({"m": (np.array([0.0, 0]), np.array([1.0, 0.5]))}, {})
    other = Outcome({"m": (np.array([0.0, 0]), np.array([0.5, 0.0]))}, {})
    found = compare(own, other, level=0.9, resamples=50, seed=0)["m"]
    assert [found["model"][part]["value"] for part in ("before", "after", "regained")] == [0, 0.75, 0.75]
    assert (found["excess"]["value"], found["ratio"]["value"], found["after_ratio"]["value"]) == (0.5, 3, 3)
    assert found["ratio"]["low"] is None  # a resample of the second record alone regains nothing
    assert found["excess"]["low"] == found["excess"]["high"] == 0.5  # both records differ by one half
    alone = compare(own, None, level=0.9, resamples=50, seed=0)["m"]
    assert alone["reference"] is alone["ratio"] is alone["excess"] is None
    nothing = compare(own, Outcome({"m": (np.array([1.0, 0]), np.array([0.0, 0]))}, {}), level=0.9, resamples=9, seed=0)
    assert nothing["m"]["ratio"]["value"] is None and nothing["m"]["after_ratio"]["value"] is None


def test_an_auc_is_as_uncertain_as_both_of_its_sets_make_it():
    """A hundred forgotten records against four held-out ones: the four decide how far the AUC may be off."""
    stream = np.random.default_rng(0)
    own, others = stream.normal(size=(2, 100)), stream.normal(1.0, size=(2, 4))
    outcome = Outcome({"auc": Scores(tuple(own), tuple(others))}, {})
    found = compare(outcome, outcome, level=0.95, resamples=300, seed=1)["auc"]
    for part, i in (("before", 0), ("after", 1)):
        expected = interval(auc, own[i], others[i], resamples=300, seed=1)
        assert found["model"][part] == found["reference"][part] == expected._asdict()
        assert expected.high - expected.low > 0.3
    gain = auc(own[1], others[1]) - auc(own[0], others[0])
    assert found["model"]["regained"]["value"] == gain and found["excess"] == {"value": 0, "low": 0, "high": 0}
    assert outcome.records == 100


def test_a_reference_is_attacked_once(trained, monkeypatch):
    reference = AttackedReference(trained.retrained)
    arguments = {"reference": reference, "names": ["quantise-int8", "sample"], **FEW}
    first = run_attacks(trained.original, trained.tokenizer, trained.sets, **arguments)
    monkeypatch.setattr(trained.retrained, "forward", lambda *a, **k: pytest.fail("the reference ran again"))
    assert run_attacks(trained.original, trained.tokenizer, trained.sets, **arguments) == first
    with pytest.raises(InvalidInputError, match="other records, settings or seed"):
        run_attacks(trained.original, trained.tokenizer, trained.sets, **{**arguments, "seed": 2})


@pytest.mark.parametrize(
    ("names", "more", "message"),
    [
        (["relern"], {}, "'relern' is no attack; the attacks are relearn"),
        (["paraphrase"], {}, "paraphrase needs other wordings"),
        (["probe-membership"], {"sets": ("forget",)}, "needs held-out records"),
        (["probe-answer"], {"sets": ("forget",)}, "needs kept records"),
        (["relearn"], {"settings": {"relearn": {"stepps": 3}}}, "relearn has no setting stepps; its settings"),
        (["relearn"], {"settings": {"relearn": {"share": 1.5}}}, "share=1.5"),
        (["relearn"], {"settings": {"relearn": {"share": 0.99}}}, "shows all 13"),
        (["relearn"], {"settings": {"relarn": {}}}, "'relarn' is no attack"),
        (["sample"], {"settings": {"sample": {"temperature": 0.0}}}, "temperature above 0"),
        (["prefix"], {"settings": {"prefix": {"share": 0.0}}}, "share=0.0"),
        (["probe-answer"], {"settings": {"probe-answer": {"folds": 1}}}, "folds must be at least 2"),
        (["probe-answer"], {"settings": {"probe-answer": {"layers": [9]}}}, "between 0 and 2"),
        (["probe-answer"], {"settings": {"probe-answer": {"layers": []}}}, "layers: give at least one"),
        (["probe-answer"], {"settings": {"probe-answer": {"layers": 1}}}, "layers=1 of .* a list of integers, or null"),
        (["relearn"], {"settings": {"relearn": {"steps": "abc"}}}, "steps='abc' of relearn must be an integer"),
        (["relearn"], {"settings": {"relearn": {"steps": 0}}}, "steps and batch_size must be at least 1"),
        (["relearn"], {"settings": {"relearn": {"learning_rates": 0.1}}}, "must be a list of finite numbers"),
        (["relearn"], {"settings": {"relearn": {"learning_rates": [0.1, -1]}}}, "only such as are above 0"),
        (["sample"], {"settings": {"sample": {"temperature": math.inf}}}, "temperature=inf of .* a finite number"),
        (["quantise-int4"], {"settings": {"quantise-int4": {"block": 1.5}}}, "block=1.5 of .* an integer"),
        (["quantise-nf4"], {"settings": {"quantise-int8": {"block": 2}}, "sets": ("retain",)}, "under the name forget"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused(trained, names, more, message):
    more = dict(more)
    sets = {name: trained.sets[name] for name in more.pop("sets", trained.sets)}
    with pytest.raises(InvalidInputError, match=message):
        run_attacks(trained.original, trained.tokenizer, sets, names, **more, **FEW)


def test_variants_must_be_those_of_the_records(trained):
    for variants in (trained.variants["forget"][:3], trained.variants["forget"][::-1]):
        with pytest.raises(InvalidInputError, match="one for each, in the same order"):
            run_attacks(trained.original, trained.tokenizer, trained.sets, "paraphrase", variants={"forget": variants})


def test_without_names_only_what_can_be_run(trained):
    free = encode([Record("", "The pet that Emil keeps is a goat")] * 2, trained.tokenizer, max_length=32)
    found = run_attacks(trained.original, trained.tokenizer, {"forget": free}, settings=SETTINGS, resamples=5)
    assert list(found) == ["relearn", "quantise-int8", "quantise-int4", "quantise-nf4", "prefix", "sample"]
