"""The metrics on trained models: what must hold of a model that remembers and of one that never knew."""

from __future__ import annotations

import json
import math
import zlib

import pytest
import torch

from fastunlearn.audit.divergence import divergences, kl
from fastunlearn.audit.generation import generate, prompt_and_answer
from fastunlearn.audit.membership import auc
from fastunlearn.audit.metrics import METRICS, MeasuredModel, Measurement, evaluate_metrics
from fastunlearn.audit.metrics.equivalence import _stats
from fastunlearn.audit.metrics.memorisation import extraction_strength
from fastunlearn.audit.metrics.tokens import token_statistics
from fastunlearn.audit.scores import token_scores
from fastunlearn.data import Record, encode
from fastunlearn.data.encode import Encoded
from fastunlearn.errors import InvalidInputError

FEW = {"resamples": 40, "seed": 3}


def samples(lengths=(5, 9, 3, 9), prompt=1, seed=0, vocabulary=37) -> list[Encoded]:
    """Random samples whose first ``prompt`` tokens are no targets."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(3, vocabulary, (length,), generator=generator) for length in lengths]
    return [Encoded(ids, torch.where(torch.arange(len(ids)) < prompt, -100, ids)) for ids in drawn]


@pytest.fixture(scope="module")
def found(trained):
    """All metrics of the original model, beside the retrained one."""
    return evaluate_metrics(
        trained.original, trained.tokenizer, trained.sets, reference=trained.retrained, variants=trained.variants,
        canaries=trained.people.canaries, siblings=[trained.original], references=[trained.original], **FEW,
    )  # fmt: skip


def test_all_metrics_are_there_and_ready_for_json(found, trained):
    assert list(found) == list(METRICS)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for name, places in found.items():
        for place, one in places.items():
            assert {"value", "low", "high"} <= set(one), name
            assert set(place.split("|")) <= {*trained.sets, "all"}, name
            assert one["low"] <= one["high"], name
    bounded = [name for name, metric in METRICS.items() if metric.range.startswith("0 to 1") and name != "exposure"]
    assert len(bounded) > 12
    assert all(0 <= one["value"] <= 1 for name in bounded for one in found[name].values())


def test_the_original_remembers(found):
    for name in ("probability", "exact_memorisation", "extraction_strength", "rouge_l_recall"):
        assert found[name]["forget"]["value"] > 0.9 > 0.6 > found[name]["held_out"]["value"]
    assert found["truth_ratio"]["forget"]["value"] < 0.1 and found["truth_ratio"]["retain"]["value"] > 0.9
    assert found["forget_quality"]["forget"]["value"] < 0.01 and found["forget_quality"]["forget"]["statistic"] > 0.8
    attacks = {name: found[name]["forget|held_out"]["value"] for name in METRICS if name.startswith("mia_")}
    assert len(attacks) == 6 and all(value > 0.6 for value in attacks.values()), attacks
    assert attacks["mia_loss"] > 0.9 and attacks["mia_gradient_norm"] > 0.9
    assert found["privleak"]["forget|held_out"]["value"] < -50
    assert found["kl"]["forget"]["value"] > 10 * found["kl"]["retain"]["value"] > 0
    assert 0 < found["js"]["forget"]["value"] <= math.log(2)
    assert found["equivalence_margin"]["retain"]["value"] < 0.1 < 0.5 < found["equivalence_margin"]["forget"]["value"]
    assert found["exposure"]["forget"]["value"] > 5 and found["model_utility"]["all"]["value"] > 0.9


def test_the_retrained_model_beside_itself_is_at_the_ideal(trained):
    measured = MeasuredModel(trained.retrained, trained.tokenizer, trained.sets, variants=trained.variants)
    names = ["kl", "js", "privleak", "forget_quality", "equivalence_margin", "mia_reference"]
    found = evaluate_metrics(measured, trained.tokenizer, trained.sets, names, reference=measured, **FEW)
    assert list(found) == names
    assert [found[name]["forget"]["value"] for name in ("kl", "js")] == pytest.approx([0, 0], abs=1e-6)
    assert found["privleak"]["forget|held_out"] == {"value": 0, "low": 0, "high": 0}
    quality = found["forget_quality"]["forget"]
    assert (quality["value"], quality["statistic"]) == (1, 0) and quality["bound"] > 0.6  # 12 records show little
    assert found["equivalence_margin"]["forget"]["value"] == 0
    assert found["mia_reference"]["forget|held_out"]["value"] == 0.5  # all differences are 0


def test_a_measured_reference_is_not_run_again(trained, monkeypatch):
    reference = MeasuredModel(trained.retrained, trained.tokenizer, trained.sets)
    arguments = (trained.original, trained.tokenizer, trained.sets, ["kl", "privleak", "equivalence_margin"])
    first = evaluate_metrics(*arguments, reference=reference, **FEW)
    monkeypatch.setattr(trained.retrained, "forward", lambda *a, **k: pytest.fail("the reference ran again"))
    assert evaluate_metrics(*arguments, reference=reference, **FEW) == first


def test_the_same_seed_gives_the_same_intervals(trained):
    arguments = (trained.original, trained.tokenizer, trained.sets, "probability")
    first = evaluate_metrics(*arguments, **FEW)
    assert first == evaluate_metrics(*arguments, **FEW)
    assert first != evaluate_metrics(*arguments, resamples=40, seed=4)


def test_token_statistics_equal_dense_sums(tiny_llama):
    model, data = tiny_llama(), samples(prompt=2)
    found = token_statistics(model, data, pad_token_id=0, batch_size=3)
    scores = token_scores(model, data, pad_token_id=0)
    torch.testing.assert_close(found.log_prob, scores.log_prob)
    assert torch.equal(found.sample, scores.sample)
    place = 0
    for sample in data:
        rows = model(sample.input_ids[None]).logits[0, :-1].detach().log_softmax(1)[sample.labels[1:] != -100]
        for row, target in zip(rows, sample.labels[1:][sample.labels[1:] != -100], strict=True):
            p = row.exp()
            mean = float((p * row).sum())
            assert float(found.expected[place]) == pytest.approx(mean)
            assert float(found.spread[place]) == pytest.approx(math.sqrt(float((p * row**2).sum()) - mean**2))
            assert float(found.confidence[place]) == pytest.approx(float(p.max()))
            assert float(found.log_odds[place]) == pytest.approx(float(row[target] - (1 - p[target]).log()))
            place += 1


def test_divergences_equal_dense_sums(tiny_llama):
    reference, model, data = tiny_llama(seed=1), tiny_llama(seed=2), samples(prompt=2)
    found = divergences(reference, model, data, pad_token_id=0, batch_size=2)
    assert float(found.kl.mean()) == pytest.approx(kl(reference, model, data, pad_token_id=0))
    rows = []
    for sample in data:
        p, q = (
            one(sample.input_ids[None]).logits[0, :-1].detach().softmax(1)[sample.labels[1:] != -100]
            for one in (reference, model)
        )
        middle = (p + q) / 2
        rows.append(((p * (p / middle).log()).sum(1) + (q * (q / middle).log()).sum(1)) / 2)
    torch.testing.assert_close(found.js, torch.cat(rows), rtol=1e-9, atol=1e-12)
    back = divergences(model, reference, data, pad_token_id=0)
    torch.testing.assert_close(back.js, found.js)  # symmetric, as KL is not


def test_extraction_strength_is_what_greedy_decoding_says(trained):
    """Against decoding from every number of given tokens: the fewest after which all the rest is written."""
    records = [canary.record for canary in trained.people.canaries]
    records += [Record(one.prompt, " 0 0 1 0") for one in trained.people.held_out[:5]]
    data = encode(records, trained.tokenizer, max_length=32)
    found = extraction_strength(token_scores(trained.original, data, pad_token_id=0))
    for sample, strength in zip(data, found, strict=True):
        prompt, answer = prompt_and_answer(sample)
        for given in range(len(answer) + 1):
            start, left = torch.cat([prompt, answer[:given]]), len(answer) - given
            if not left or torch.equal(generate(trained.original, [start], [left])[0][0], answer[given:]):
                break
        assert strength == pytest.approx(1 - given / len(answer))
    assert found.max() == 1 and found.min() < 0.6


def test_zlib_compresses_the_text_that_the_loss_is_of(trained):
    """Of free text that is all of it, though its second half alone counts as the answer."""
    people = trained.people
    # one half says the same again and again: forgotten records have it first, held-out ones last
    texts = {"forget": ["was " * 9 + one.text for one in people.forget],
             "held_out": [one.text + " was" * 9 for one in people.held_out]}  # fmt: skip
    records = {name: [Record("", text) for text in some] for name, some in texts.items()}
    records["answers"] = people.retain[:4]
    sets = {name: encode(some, trained.tokenizer, max_length=32, add_eos=True) for name, some in records.items()}
    measured = MeasuredModel(trained.original, trained.tokenizer, sets)
    assert measured.scored_texts("forget") == texts["forget"]
    assert measured.scored_texts("answers") == measured.texts("answers")
    scores = []
    for name, some in texts.items():
        losses = token_scores(trained.original, sets[name], pad_token_id=0).sample_losses.tolist()
        scores.append([loss / len(zlib.compress(text.encode())) for loss, text in zip(losses, some, strict=True)])
    found = evaluate_metrics(measured, trained.tokenizer, sets, "mia_zlib", **FEW)["mia_zlib"]["forget|held_out"]
    assert found["value"] == pytest.approx(auc(*scores))


def test_model_utility_is_the_harmonic_mean_of_its_parts(trained, found):
    three = [found[name]["retain"]["value"] for name in ("probability", "rouge_l_recall", "truth_ratio")]
    assert found["model_utility"]["all"]["value"] == pytest.approx(3 / sum(1 / one for one in three))
    # on sets of other knowledge the probability is that of the right answer among the wrong ones
    sets = {"forget": trained.sets["forget"], "world_facts": trained.sets["retain"]}
    variants = {"world_facts": trained.variants["retain"]}
    measured = MeasuredModel(trained.original, trained.tokenizer, sets, variants={**variants, "forget": []})
    answers = measured.answers("world_facts")
    right = [math.exp(-own) / (math.exp(-own) + sum(math.exp(-one) for one in wrong))
             for own, wrong in zip(answers.own, answers.wrong, strict=True)]  # fmt: skip
    other = METRICS["model_utility"].measure(Measurement(measured, resamples=5))["all"]["value"]
    parts = [found[name]["retain"]["value"] for name in ("truth_ratio", "rouge_l_recall")]
    parts.append(sum(right) / len(right))
    assert other == pytest.approx(3 / sum(1 / one for one in parts), rel=1e-6)


def test_what_cannot_be_measured_is_refused(trained):
    arguments = (trained.original, trained.tokenizer, trained.sets)
    with pytest.raises(InvalidInputError, match="'kll' is no metric; the metrics are probability"):
        evaluate_metrics(*arguments, ["kll"])
    with pytest.raises(InvalidInputError, match=r"forget_quality needs wrong answers.*and a retrained model"):
        evaluate_metrics(*arguments, ["forget_quality"])
    with pytest.raises(InvalidInputError, match="klom needs two models of each kind"):
        evaluate_metrics(*arguments, ["klom"], reference=trained.retrained)
    with pytest.raises(InvalidInputError, match="under the name forget"):
        evaluate_metrics(trained.original, trained.tokenizer, {"retain": trained.sets["retain"]})
    with pytest.raises(InvalidInputError, match="retain: no samples"):
        evaluate_metrics(trained.original, trained.tokenizer, {**trained.sets, "retain": []})
    with pytest.raises(InvalidInputError, match="no set is named fresh"):
        evaluate_metrics(*arguments, variants={"fresh": trained.variants["forget"]})
    with pytest.raises(InvalidInputError, match="pad_token_id"):
        evaluate_metrics(trained.original, None, trained.sets)
    other = MeasuredModel(trained.retrained, trained.tokenizer, {"forget": trained.sets["retain"]})
    with pytest.raises(InvalidInputError, match="reference: was measured on other sets"):
        evaluate_metrics(*arguments, ["kl"], reference=other)
    with pytest.raises(InvalidInputError, match="model: was measured on other sets"):
        evaluate_metrics(other, *arguments[1:], ["kl"], reference=other)
    own = MeasuredModel(*arguments, variants=trained.variants)
    plain = MeasuredModel(trained.retrained, *arguments[1:])
    with pytest.raises(InvalidInputError, match="give them to MeasuredModel"):
        evaluate_metrics(plain, *arguments[1:], ["truth_ratio"], variants=trained.variants)
    with pytest.raises(InvalidInputError, match="reference: was measured with other variants of forget"):
        evaluate_metrics(own, *arguments[1:], ["forget_quality"], reference=plain)
    with pytest.raises(InvalidInputError, match="pass variants= to MeasuredModel"):
        plain.answers("forget")


def test_without_names_only_what_can_be_measured(trained):
    found = evaluate_metrics(trained.original, trained.tokenizer, {"forget": trained.sets["forget"]}, resamples=5)
    assert "probability" in found and not {"kl", "mia_loss", "truth_ratio", "klom", "exposure"} & set(found)


def test_scipy_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy", None)
    with pytest.raises(InvalidInputError, match="pip install scipy"):
        _stats()
