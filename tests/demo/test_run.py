"""The demonstration in small: every part of it runs, and what it writes is whole."""

from __future__ import annotations

import io
import json

import pytest

from fastunlearn.audit.document import validate
from fastunlearn.demo.claims import claims
from fastunlearn.demo.grids import GRIDS
from fastunlearn.demo.run import SHOWN, run_demo
from fastunlearn.demo.subject import make_subject
from fastunlearn.evaluation import contest as contest_module
from fastunlearn.evaluation.contest import Contest
from fastunlearn.progress import TerminalProgress

SMALL = {"steps": 100, "people": 14, "facts": 3, "forget_people": 2, "held_out_people": 4, "canaries": 2}
FIGURES = {"forget_accuracy", "retain_accuracy", "kl_retain", "kl_forget", "gradients", "seconds", "peak_bytes",
           "uses_retain"}  # fmt: skip


@pytest.fixture(scope="module")
def subject():
    return make_subject(0, **SMALL)


@pytest.mark.slow
def test_the_whole_demonstration(tmp_path, monkeypatch):
    for name, grid in GRIDS.items():  # all methods, but few of the trials
        monkeypatch.setitem(GRIDS, name, grid[: 2 if name == "gradient-difference" else 1])
    stream = io.StringIO()
    run_demo(tmp_path / "demo", progress=TerminalProgress(stream), **SMALL)
    document = json.loads((tmp_path / "demo" / "report.json").read_text(encoding="utf-8"))
    validate(document)
    assert list(document["methods"]) == list(SHOWN)
    for item in (document["original"], document["reference"], *document["methods"].values()):
        assert set(item) >= FIGURES and item["kl_retain"] is not None
    assert document["reference"]["kl_retain"] == 0 and document["reference"]["forget_accuracy"] < 0.5
    budget = document["settings"]["first_order_budget"]
    assert budget == document["methods"]["fisher-removal"]["gradients"]
    for name in GRIDS:
        assert document["methods"][name]["gradients"] <= budget
        assert document["methods"][name]["settings"]["trials"] == len(GRIDS[name])
    assert set(claims(document)["shown"]) and "<svg" in (tmp_path / "demo" / "report.html").read_text()
    names = [line.partition(":")[0] for line in stream.getvalue().splitlines()]
    assert names[0] == "Original model" and names[-1] == "Demo" and len(names) == 3 + len(SHOWN)
    assert "Demo: 100 of 100" in stream.getvalue()


def test_points_on_the_way_are_measured_where_enough_is_first_forgotten(subject, monkeypatch):
    contest = Contest(subject)
    monkeypatch.setattr(contest_module, "POINTS", 1)  # only first and last would be measured otherwise
    best = contest.run_tuned("gradient-ascent", 2000, GRIDS["gradient-ascent"])
    item = contest.methods["gradient-ascent"]
    enough = [step for step in item["steps"] if step["forget_accuracy"] <= contest.limit]
    assert enough and "kl_retain" in enough[0]
    assert {json.dumps(p["settings"]) for p in item["frontier"]} == {json.dumps(g) for g in GRIDS["gradient-ascent"]}
    assert best.result.stopped == item["stopped"]


def test_the_end_of_every_trial_is_a_point(subject):
    """Also of one that never forgets, whose last step falls between two looks that are traced."""
    grid = [{"learning_rate": rate, "check_every": 4} for rate in (1e-6, 1e-5)]
    contest = Contest(subject)
    contest.run_tuned("npo", 10 * len(subject.forget), grid)
    item = contest.methods["npo"]
    assert [point["settings"] for point in item["frontier"]] == grid
    assert item["stopped"].endswith("is spent") and item["steps"][-1]["step"] % 4 != 0
    end = item["frontier"][grid.index({key: item["settings"][key] for key in grid[0]})]
    assert end["forget_accuracy"] == item["forget_accuracy"]
    assert end["kl_retain"] == pytest.approx(item["kl_retain"], rel=0.5)  # some of the retained records, and all


def test_the_original_is_left_alone(subject):
    before = {name: p.clone() for name, p in subject.original.model.named_parameters()}
    Contest(subject).run("newton")
    assert all(p.equal(before[name]) for name, p in subject.original.model.named_parameters())


def test_models_start_from_the_same_weights_and_the_retrained_one_never_met_the_people(subject):
    texts = {record.text for record in subject.people.forget}
    assert texts.isdisjoint(record.text for record in subject.people.retain)
    assert subject.original.log.gradients == subject.reference.log.gradients == 48 * SMALL["steps"]
