"""The document's checks, and the verdict that is computed from it."""

from __future__ import annotations

import copy
import json
import math
from types import SimpleNamespace

import pytest

from fastunlearn.audit.document import build_document, entry, result_entry, validate
from fastunlearn.audit.verdict import judge
from fastunlearn.errors import InvalidInputError


def change(document: dict, place: str, value: object) -> dict:
    """A copy with the value at ``place`` (keys joined by /) replaced."""
    changed = copy.deepcopy(document)
    *path, last = place.split("/")
    node = changed
    for key in path:
        node = node[key]
    node[last] = value
    return changed


def test_the_document_survives_json(document):
    again = json.loads(json.dumps(document, allow_nan=False))
    validate(again)
    assert again == document


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("schema", 2, "schema 2"),
        ("title", None, r"report\.title must be a string, got NoneType"),
        ("title", "half \ud800 pair", "surrogate"),
        ("extra", 1, "unknown key 'extra'"),
        ("seed", 0.5, r"report\.seed must be an integer or null"),
        ("original/forget_accuracy", 1.5, r"original\.forget_accuracy=1.5 is outside 0 to 1"),
        ("methods/npo/kl_retain", math.nan, r"methods\.npo\.kl_retain must be a finite number or null"),
        ("methods/npo/gradients", True, r"npo\.gradients must be an integer"),
        ("methods/npo/uses_retain", "no", "true or false"),
        ("methods/npo/steps", [{"step": math.inf}], r"steps\[0\]\.step must be a finite number"),
        ("methods/npo/metrics/exposure", [{"rank": 1}], r"exposure\[0\] lacks candidates, bits, forgotten"),
        ("settings/target_forget_accuracy", 30, "outside 0 to 1"),
        ("seed", 10**400, r"report\.seed must be an integer or null"),  # no float holds it: formats and plots fail
        ("data/bytes", 10**400, r"report\.data\.bytes must be a finite number"),
        ("methods/npo/first_order", "no", "true or false"),
        ("model/size", object(), r"report\.model\.size must be plain JSON data"),
        ("notes", "one string", r"report\.notes must be a list"),
        ("reference", [], r"report\.reference must be a dictionary"),
    ],
)
def test_what_is_wrong_is_named(document, place, value, message):
    with pytest.raises(InvalidInputError, match=message):
        validate(change(document, place, value))


def test_missing_parts_are_named(document):
    del document["original"]["stopped"]
    with pytest.raises(InvalidInputError, match=r"report\.original lacks stopped"):
        validate(document)
    with pytest.raises(InvalidInputError, match="must be a dictionary"):
        validate([])


def test_error_messages_do_not_quote_values(document):
    with pytest.raises(InvalidInputError) as caught:
        validate(change(document, "methods/npo/gradients", "text of a record"))
    assert "text of a record" not in str(caught.value)


def test_result_entry_takes_cost_from_the_result(sample):
    metrics = sample.metrics(0.1, 0.9, 0.1, 0.02, 0.3, 0.5, 1.0, 9.0)
    result = SimpleNamespace(
        uses_retain=True, gradients=7, seconds=1.5, peak_bytes=None, settings={"a": 1}, stopped="done",
        steps=[{"step": 1, "forget_accuracy": 0.2}],
    )  # fmt: skip
    made = result_entry("Mine", metrics, result)
    assert (made["gradients"], made["seconds"], made["stopped"], made["uses_retain"]) == (
        7,
        1.5,
        "done",
        True,
    )
    assert (made["forget_accuracy"], made["kl_retain"], made["steps"]) == (0.1, 0.02, result.steps)
    with pytest.raises(InvalidInputError, match=r"'Mine'.*seconds"):
        entry("Mine", metrics, seconds=-1.0)


def test_versions_and_machine_are_filled_in(document):
    made = build_document(title="t", original=document["original"], methods={})
    assert made["versions"]["torch"] and made["machine"]["threads"] >= 1 and made["created"]


def test_verdict_names_the_nearest_and_the_factor(document):
    verdict = judge(document)
    assert verdict.ranking[0] == "fisher-removal" and verdict.ranking[-1] == "finetune"
    assert "finetune" not in verdict.reached and verdict.limit == pytest.approx(0.115)
    assert verdict.text.startswith("Fisher removal came closest to retraining: a KL of 0.0172 nats")
    assert "4.2 times closer than the best first-order method (Negative preference optimisation, 0.0714)" in (
        verdict.text
    )  # 0.0714 / 0.0172 = 4.15
    assert "7 of 8 methods" in verdict.text


def test_verdict_changes_with_the_numbers(document):
    won = judge(change(document, "methods/npo/kl_retain", 0.00172))
    assert won.ranking[0] == "npo"
    assert "10.0 times closer than the best second-order method (Fisher removal, 0.0172)" in won.text
    wide = judge(change(document, "settings/target_forget_accuracy", 0.9))
    assert len(wide.reached) == 8 and "1.1 times closer than the best first-order method (Fine" in wide.text


def test_verdict_makes_nothing_of_a_hair(document):
    near = judge(change(document, "methods/npo/kl_retain", 0.0175))
    assert ", hardly closer than the best first-order method" in near.text


def test_verdict_when_none_forgot(document):
    verdict = judge(change(document, "settings/target_forget_accuracy", 0.0))
    assert verdict.reached == ["gradient-ascent"]
    for name in list(document["methods"]):
        document["methods"][name]["forget_accuracy"] = 0.5
    verdict = judge(document)
    assert verdict.reached == [] and verdict.text.startswith("No method forgot as much")


def test_verdict_without_rivals_or_reference(document):
    kept = {"newton": document["methods"]["newton"]}
    assert "no first-order method was run" in judge({**document, "methods": kept}).text
    kept["finetune"] = document["methods"]["finetune"]
    assert "no first-order method forgot that much" in judge({**document, "methods": kept}).text
    assert judge({**document, "methods": {}}).text.startswith("No method was run")
    bare = {**document, "reference": None}
    assert judge(bare).text.startswith("There is no retrained model")  # a KL is then from something else
    for item in bare["methods"].values():
        item["kl_retain"] = None
    assert judge(bare).text.startswith("There is no retrained model to compare with: Fine-tuning")


def test_verdict_with_a_kl_of_zero_divides_by_nothing(document):
    verdict = judge(change(document, "methods/newton/kl_retain", 0.0))
    assert verdict.ranking[0] == "newton" and "before the best first-order method" in verdict.text


def further(value: float = 0.25) -> dict:
    """An entry's further parts, as evaluate_metrics and run_attacks give them."""
    one = {"value": value, "low": value - 0.125, "high": value + 0.125}
    none = {"value": None, "low": None, "high": None}
    side = {"before": one, "after": one, "regained": none}
    measure = {"model": side, "reference": side, "excess": one, "ratio": none, "after_ratio": one}
    attack = {"measures": {"accuracy": measure}, "records": 3, "settings": {"steps": 4}, "facts": {}}
    return {"more_metrics": {"kl": {"retain": one, "fresh": none}}, "attacks": {"relearn": attack}}


def test_further_metrics_and_attacks_are_checked_and_shown(document):
    from fastunlearn.audit.html import report_html

    for language in ("en", "ja"):
        assert "relearn" not in report_html(document, language)
    for item in (document["original"], *document["methods"].values()):
        item |= further()
    validate(json.loads(json.dumps(document)))
    for language in ("en", "ja"):
        page = report_html(document, language)
        assert page.count(">0.25<") >= len(document["methods"]) and "0.125–0.375" in page
        assert "0.25 → 0.25" in page and "fresh" in page
    for place, value, message in (
        ("methods/npo/more_metrics/kl/retain/value", "high", r"kl\.retain\.value must be a finite number"),
        ("methods/npo/attacks/relearn/records", 0, r"relearn\.records=0"),
        ("methods/npo/attacks/relearn/measures/accuracy/model", {}, "lacks before, after, regained"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            validate(change(document, place, value))


def test_a_document_nested_too_deep_is_no_crash(document):
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(InvalidInputError, match="nested too deep"):
        validate(change(document, "data/deep", deep))


def test_a_method_without_a_kl_is_not_ranked_by_its_accuracy_before_those_with_one(document):
    before = judge(document)
    document["methods"][before.ranking[0]]["kl_retain"] = None
    after = judge(document)
    assert after.ranking[0] == before.ranking[1] and after.ranking[len(after.reached) - 1] == before.ranking[0]


def test_models_of_an_unknown_kind_are_compared_with_none(document):
    best = judge(document).ranking[0]
    for item in document["methods"].values():
        item["first_order"] = None
    text = judge(document).text
    assert document["methods"][best]["label"] in text and "-order" not in text
    for name, item in document["methods"].items():
        item["first_order"] = False if name == best else None
    assert "-order" not in judge(document).text  # one of the others may be of first order: nothing is said of them
    document["methods"]["npo"]["first_order"] = True
    assert "closer than the best first-order method" in judge(document).text
