"""A sweep: which runs, what of each, going on after a stop, the front, the table and the plot."""

from __future__ import annotations

import json

import pytest

from fastunlearn.audit.document import validate
from fastunlearn.audit.html import report_html
from fastunlearn.audit.verdict import judge
from fastunlearn.errors import InvalidInputError
from fastunlearn.evaluation import sweep as module
from fastunlearn.evaluation.sweep import axes_of, beats, pareto, points_of, sweep
from fastunlearn.evaluation.sweep_page import name_of, report_document, table
from fastunlearn.unlearn import METHODS
from tests.unlearn.unchanged import bits, same_bits

AXES = {"damping": [1e-6, 1e-4], "steps": [1, 2]}


def test_the_runs():
    one = points_of("fisher-removal", AXES)
    assert one == [{}, {"damping": 1e-4}, {"steps": 1}, {"steps": 2}]  # 1e-6 is the default
    assert points_of("fisher-removal", AXES, full=True)[1:] == [
        {"damping": d, "steps": s} for d in AXES["damping"] for s in AXES["steps"]
    ]
    assert points_of("fisher-removal", {"parameters": ["*mlp*"]}, fixed={"steps": 2}) == [
        {"steps": 2}, {"steps": 2, "parameters": "*mlp*"},
    ]  # fmt: skip
    with pytest.raises(InvalidInputError, match="no setting 'dampin'"):
        points_of("fisher-removal", {"dampin": [1.0]})
    with pytest.raises(InvalidInputError, match="damping=0"):
        points_of("fisher-removal", {"damping": [0]})


def test_the_front_by_hand():
    rows = [(1, 5), (2, 4), (2, 5), (3, 1), (1, 5), (0, None)]
    assert pareto([{"a": a, "b": b} for a, b in rows], ("a", "b")) == [True, True, False, True, True, True]


def test_chance_in_what_is_measured_decides_nothing():
    base = {"damage": 1.0, "peak_bytes": 100, "seconds": 1.0}
    keys = tuple(base)
    assert pareto([base, base | {"peak_bytes": 90, "seconds": 0.97}], keys) == [True, True]
    assert pareto([base, base | {"peak_bytes": 80}], keys) == [False, True]
    assert pareto([base, base | {"seconds": 0.9}], keys) == [False, True]
    assert pareto([base, base | {"damage": 0.9, "peak_bytes": 110, "seconds": 1.04}], keys) == [False, True]
    assert pareto([base, base | {"damage": 0.9, "peak_bytes": 120}], keys) == [True, True]


def arguments(subject, tmp_path):
    sets = {name: getattr(subject, name) for name in ("forget", "retain", "held_out")}
    return {**sets, "out": tmp_path, "pad_token_id": 0, "axes": AXES}


def test_a_sweep_goes_on_where_it_stopped(subject, tmp_path, monkeypatch):
    model, before = subject.original.model, bits(subject.original.model)
    real, calls = module.unlearn, []

    def stops(*args, **rest):
        calls.append(rest)
        if len(calls) == 4:  # the first is the rehearsal
            raise KeyboardInterrupt
        return real(*args, **rest)

    monkeypatch.setattr(module, "unlearn", stops)
    with pytest.raises(KeyboardInterrupt):
        sweep(model, **arguments(subject, tmp_path))
    assert same_bits(bits(model), before)
    assert len(json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))["points"]) == 2
    found = sweep(model, **arguments(subject, tmp_path))
    assert len(calls) == 4 + 3 and len(found.points) == 4 and same_bits(bits(model), before)
    assert found.points[3]["steps"] == 2 and found.points[2]["steps"] == 1
    assert found.points[3]["forget_loss"] != found.points[2]["forget_loss"]
    assert all(one["damage"] > 0 and one["seconds"] > 0 for one in found.points) and any(
        one["on_front"] for one in found.points
    )
    validate(report_document(found.document))
    page = report_html(report_document(found.document))
    assert "damping=0.0001" in page and "<svg" in page
    rows = table(found.document)
    assert len(rows) == 5 and {row[0] for row in rows[1:]} == {"defaults", "damping=0.0001", "steps=1", "steps=2"}


def test_a_sweep_of_something_else_is_refused(subject, tmp_path):
    more = arguments(subject, tmp_path) | {"axes": {}}
    sweep(subject.original.model, **more)
    with pytest.raises(InvalidInputError, match="of another model"):
        sweep(subject.original.model, **more, seed=1)
    with pytest.raises(InvalidInputError, match="seed or memory"):  # which decides blocks, seconds and bytes
        sweep(subject.original.model, **more, memory="2GB")
    assert len(sweep(subject.original.model, **more, memory="1000MB").points) == 1  # the same memory
    with pytest.raises(InvalidInputError, match="of another model"):
        sweep(subject.reference.model, **more)
    for other in (subject.original, subject.reference):  # damage would be measured from something else
        with pytest.raises(InvalidInputError, match="of another model, reference"):
            sweep(subject.original.model, **more, reference=other.model)
    (tmp_path / "sweep.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InvalidInputError, match="is no sweep"):
        sweep(subject.original.model, **more)


def test_a_setting_that_cannot_be_run_is_a_result(subject, tmp_path):
    found = sweep(subject.original.model, **arguments(subject, tmp_path) | {"axes": {"steps": [1]}}, memory="1KB")
    assert [one["error"][:6] for one in found.points] == ["memory", "memory"]
    assert table(found.document)[1][2] == "failed"


def test_damage_is_from_the_retrained_model_where_there_is_one(subject, tmp_path):
    more = arguments(subject, tmp_path) | {"axes": {}, "fixed": {"steps": 1}}
    alone = sweep(subject.original.model, **more | {"out": tmp_path / "a"})
    beside = sweep(subject.original.model, **more | {"out": tmp_path / "b"}, reference=subject.reference.model)
    assert (
        alone.document["about"]["damage_from"] == "original" and beside.document["about"]["damage_from"] == "retrained"
    )
    assert alone.document["about"]["original"]["damage"] == 0 < beside.document["about"]["original"]["damage"]
    assert name_of({"fisher_samples": None, "steps": 3}) == "fisher_samples=all, steps=3"


def test_the_page_calls_damage_by_what_it_is_measured_from(subject, tmp_path):
    """And says of a method what it is, whatever its settings are called."""
    more = arguments(subject, tmp_path) | {
        "method": "gradient-ascent", "axes": {"learning_rate": [1e-3]}, "fixed": {"gradients": 32}
    }  # fmt: skip
    alone = sweep(subject.original.model, **more | {"out": tmp_path / "a"}).document
    beside = sweep(subject.original.model, **more | {"out": tmp_path / "b"}, reference=subject.reference.model).document
    for document, damage, others in ((alone, "original", "retrained"), (beside, "retrained", "original")):
        head = table(document)[0]
        assert f"Damage (KL from the {damage} model)" in head and not any(others in one for one in head)
    known, unknown = report_document(beside), report_document(alone)
    for report in (known, unknown):
        assert all(not one["uses_retain"] and one["first_order"] for one in report["methods"].values())
    for report, document in ((known, beside), (unknown, alone)):
        for one, point in zip(report["methods"].values(), document["points"], strict=True):
            moved = one.get("more_metrics", {}).get("kl_from_original", {}).get("retain", {}).get("value")
            expected = (None, point["damage"]) if report is unknown else (point["damage"], None)
            assert (one["kl_retain"], moved) == expected
    assert unknown["reference"] is None and "closest to retraining" not in report_html(unknown)
    assert known["reference"]["kl_retain"] == 0 and judge(known).ranking[0] in known["methods"]
    assert known["reference"]["forget_accuracy"] == beside["about"]["target"]
    assert "kl_from_original" in report_html(unknown) and "kl_from_original" not in report_html(known)
    nothing_aimed_at = {"settings": {}}
    assert "There is no retrained model" in judge(unknown | nothing_aimed_at).text
    assert "closest to retraining" in judge(known | {"settings": {"target_forget_accuracy": 1.0}}).text


@pytest.mark.parametrize("method", METHODS)
def test_what_is_varied_by_default_suits_every_method(method):
    axes = axes_of(method)
    values = sum(len(some) for some in axes.values())
    assert len(axes) <= len(points_of(method, axes)) <= 1 + values  # a value that the method refuses is an error


def test_less_damage_than_chance_beats_nothing():
    keys, base = ("gradients", "damage"), {"gradients": 10, "damage": 1.0}
    assert not beats(base | {"damage": 0.996}, base, keys) and beats(base | {"damage": 0.994}, base, keys)
    assert beats({"gradients": 9, "damage": 1.004}, base, keys)
    assert not beats({"gradients": 9, "damage": 1.006}, base, keys)
    assert beats(base | {"damage": 0.996}, base, keys, {})
