"""docs/results.md and docs/guide.md are what the generators make, and what they say follows from the cases."""

from __future__ import annotations

import copy
import json

import pytest

from bench import results_page
from bench.quality import known, nearest
from fastunlearn.unlearn import METHODS


def item(label, kl, forget=0.1, *, first_order=False, best=None, forgot=True):
    return {
        "label": label, "uses_retain": True, "gradients": 100, "seconds": 1.0, "peak_bytes": 2**20,
        "forget_accuracy": forget, "retain_accuracy": 0.9, "held_out_accuracy": 0.1, "kl_retain": kl, "kl_forget": 1.0,
        "kl_fresh": 0.2, "membership": {"auc": 0.5}, "exposure_forget": None, "settings": {}, "stopped": "-",
        "first_order": first_order, "forgot": forgot, "attacks": {},
        "nearest": None if best is None else {"forget_accuracy": 0.1, "kl_retain": best},
    }  # fmt: skip


@pytest.fixture
def record():
    leaf = lambda value: {"value": value, "low": value, "high": value}  # noqa: E731
    methods = {
        "fisher-removal": item("Fisher Removal", 0.02, best=0.02),
        "npo-retain": item("NPO with retained data", 0.09, first_order=True, best=0.05),
        "gradient-ascent": item("Gradient ascent", 3.0, first_order=True, best=2.0),
        "bounded-difference": item("Bounded difference", 0.04, first_order=True, best=0.03),
    }
    methods["fisher-removal"]["attacks"] = {
        "relearn": {"measures": {"accuracy": {
            "model": {"before": leaf(0.1), "after": leaf(0.4), "regained": leaf(0.3)},
            "reference": {"before": leaf(0.1), "after": leaf(0.35), "regained": leaf(0.25)},
            "ratio": leaf(1.2), "excess": {"value": 0.05, "low": -0.01, "high": 0.1},
        }}}
    }  # fmt: skip
    for name, one in METHODS.items():
        if one.first_order:
            methods.setdefault(name, item(one.label, 4.0, first_order=True, forgot=False))
    case = {
        "dataset": "news", "kind": "news", "seed": 0, "source": "generated", "budget": 500, "trials": 3, "limit": 0.2,
        "retrained_interval": [0.1, 0.05, 0.2], "records": {"forget": 5, "held_out": 6}, "weights": 1000,
        "vocabulary": 50, "methods": methods, "original": item("Original", 0.01), "reference": item("Retrained", 0.0),
    }  # fmt: skip
    return {
        "settings": {"note": ""}, "date": "2026-01-01", "machine": {"cpu": "a CPU", "threads": 2},
        "versions": {"torch": "2.9"}, "cases": [case],
    }  # fmt: skip


def write(folder, name, record):
    (folder / name).write_text(json.dumps(record), encoding="utf-8")


def row(text, start) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_page_is_what_the_generator_makes():
    assert results_page.PAGE.read_text(encoding="utf-8") == results_page.page(), "run python -m bench.results_page"


def test_the_best_first_order_point_stands_against_our_end(tmp_path, record):
    write(tmp_path, "quality-news.json", record)
    cells = row(results_page.page(tmp_path), "news | 0 | 0.1 in 0.05 to 0.2")
    assert cells[3:] == ["0.02, untouched 0.01", "npo-retain, 0.05", "0.4 (shown)", "0.25"]  # (.02 - .01) / (.05 - .01)
    text = results_page.page(tmp_path)
    assert "Fisher Removal: held in 1 of 1 cases." in text and "0 of the cases do not count" in text
    assert "Kronecker Removal: held" not in text  # it was not run
    assert "In 0 of them the untouched" in text and "at most half: in 1." in text


def test_it_is_said_where_the_untouched_model_is_too_far_for_any(tmp_path, record):
    record["cases"][0]["methods"]["npo-retain"]["nearest"]["kl_retain"] = 0.019  # half of it is below 0.01, untouched
    record["cases"][0]["methods"]["fisher-removal"]["kl_retain"] = 0.013
    write(tmp_path, "quality-news.json", record)
    text = results_page.page(tmp_path)
    assert "held in 0 of 1 cases. In 1 of them the untouched" in text and "at most half: in 1." in text


def test_both_of_ours_have_a_table(tmp_path, record):
    record["cases"][0]["methods"]["kronecker-removal"] = item("Kronecker Removal", 0.03, forget=0.15, best=0.03)
    write(tmp_path, "quality-news.json", record)
    text = results_page.page(tmp_path)
    assert row(text, "news | 0 | 0.1 in")[5] == "0.4 (shown)" and row(text, "news | 0 | 0.15 in")[5] == "0.6"
    assert "Fisher Removal: held in 1 of 1 cases." in text and "Kronecker Removal: held in 0 of 1 cases." in text


def test_without_the_strongest_methods_nothing_is_shown(tmp_path, record):
    del record["cases"][0]["methods"]["kl-ascent"]
    write(tmp_path, "quality-news.json", record)
    text = results_page.page(tmp_path)
    assert row(text, "news | 0 | 0.1 ")[5] == "0.4" and "held in 0 of 1 cases." in text
    assert "1 of the cases do not count" in text


def test_it_is_said_where_no_method_with_retained_data_forgot(tmp_path, record):
    for name in ("npo-retain", "gradient-ascent"):
        record["cases"][0]["methods"][name]["uses_retain"] = name == "npo-retain"
    write(tmp_path, "quality-news.json", record)
    assert "In 0 of the others" in results_page.page(tmp_path)
    record["cases"][0]["methods"]["npo-retain"]["nearest"] = None
    write(tmp_path, "quality-news.json", record)
    assert "In 1 of the others" in results_page.page(tmp_path)


def test_a_method_that_did_not_forget_holds_nothing(tmp_path, record):
    record["cases"][0]["methods"]["fisher-removal"]["forgot"] = False
    write(tmp_path, "quality-news.json", record)
    text = results_page.page(tmp_path)
    assert row(text, "news | 0 | 0.1 ")[2].endswith("(not reached)") and row(text, "news | 0 | 0.1 ")[5] == "–"
    assert "held in 0 of 1 cases." in text


def test_a_ratio_above_the_goal_is_told_as_it_is(tmp_path, record):
    record["cases"][0]["methods"]["npo-retain"]["nearest"]["kl_retain"] = 0.021
    write(tmp_path, "quality-news.json", record)
    assert row(results_page.page(tmp_path), "news | 0 | 0.1 ")[5] == "0.952"
    assert "held in 0 of 1 cases." in results_page.page(tmp_path)


def test_tables_attacks_and_what_was_not_run(tmp_path, record):
    second = copy.deepcopy(record["cases"][0]) | {"seed": 1}
    second["methods"]["fisher-removal"]["kl_retain"] = 0.04
    record["cases"].append(second)
    write(tmp_path, "quality-news.json", record)
    text = results_page.page(tmp_path)
    assert row(text, "Fisher Removal | 2 of 2")[4] == "0.03 (0.02 to 0.04)"
    assert row(text, "news | 0 | Fisher Removal | relearn")[4:] == ["0.1, 0.4", "0.1, 0.35", "1.2"]
    assert "- news: 1 of 3 seeds" in text and "- verbatim: 3 of 3 seeds" in text
    absent = [name for name in METHODS if name not in second["methods"]]
    assert f"- news, seed 1: {', '.join(absent)}" in text


def test_how_often_each_method_withstands_an_attack(tmp_path, record):
    second = copy.deepcopy(record["cases"][0]) | {"seed": 1}
    found = second["methods"]["fisher-removal"]["attacks"]["relearn"]["measures"]["accuracy"]
    found["model"]["regained"]["value"], found["excess"] = 0.31, {"value": 0.06, "low": 0.01, "high": 0.1}
    found["model"]["after"]["value"] = 0.43  # of the retrained model's 0.35: 1.23 times
    record["cases"].append(second)
    write(tmp_path, "quality-news.json", record)
    text = results_page.page(tmp_path)
    assert row(text, "Fisher Removal | relearn") == [
        "Fisher Removal", "relearn", "2", "1", "1", "1", "0.055 (0.05 to 0.06)"
    ]  # fmt: skip


def test_where_the_retrained_model_regains_nothing_nothing_may_come_back():
    sides = {"reference": {"regained": {"value": -0.1}}}
    assert not results_page.withstands(sides | {"model": {"regained": {"value": 0.01}}})
    assert results_page.withstands(sides | {"model": {"regained": {"value": -0.01}}})


def test_seconds_are_left_out_where_the_machine_did_other_work(tmp_path, record):
    write(tmp_path, "quality-news.json", record)
    assert row(results_page.page(tmp_path), "Gradient ascent |")[-1] == "1"
    write(tmp_path, "quality-news.json", record | {"settings": {"note": "Others worked too."}})
    text = results_page.page(tmp_path)
    assert row(text, "Gradient ascent |")[-1] == "–" and "Others worked too." in text


def test_the_nearest_point_that_has_forgotten():
    end = {"forget_accuracy": 0.1, "kl_retain": 3.0, "steps": [{"forget_accuracy": 0.15, "kl_retain": 1.0}]}
    tried = [{"forget_accuracy": 0.3, "kl_retain": 0.1}, {"forget_accuracy": 0.2, "kl_retain": 2.0}]
    assert nearest(end | {"frontier": tried}, 0.2) == {"forget_accuracy": 0.15, "kl_retain": 1.0}
    assert nearest(end | {"frontier": []}, 0.05) is None


def test_cases_of_another_budget_are_not_gone_on_with(tmp_path):
    from fastunlearn import __version__
    from fastunlearn.evaluation.trials import budget_of

    records = {"forget": 3, "retain": 7}
    cases = [{"seed": seed, "records": records, "budget": budget_of(3, 7) + seed} for seed in (0, 1)]
    path, settings = tmp_path / "quality-news.json", {"run": {"trials": 2}}
    record = {"versions": {"fastunlearn": __version__}, "settings": settings, "cases": cases}
    path.write_text(json.dumps(record), encoding="utf-8")
    assert known(path, settings) == cases[:1]
    assert known(path, {"run": {"trials": 3}}) == []
