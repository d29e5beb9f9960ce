"""The guide from the sweeps: whole, as generated, and over the seeds of a data set."""

import json

import pytest

from bench import guide_page
from bench.sweep import FILES, swept
from bench.sweep_cases import DEFAULTS, Seed, Swept, name_for
from fastunlearn.evaluation.datasets import DATASETS
from fastunlearn.evaluation.sweep import points_of


def point(settings, damage, *, forget=0.1, seconds=1.0, gradients=100):
    return {
        "settings": settings, "error": None, "on_front": False, "damage": damage, "forget_accuracy": forget,
        "retain_accuracy": 0.9, "left": max(0.0, forget - 0.1), "seconds": seconds, "gradients": gradients,
        "peak_bytes": 2**20, "stopped": "-", "steps": 3,
    }  # fmt: skip


def case(*points, seed=0, target=0.1):
    about = {
        "dataset": "news", "kind": "news", "source": "generated", "records": {"forget": 5}, "weights": 10,
        "target": target, "seed": seed, "original": {"forget_accuracy": 1.0, "damage": 0.01},
    }  # fmt: skip
    return {"about": about, "points": list(points)}


def write(folder, name, *cases, note=""):
    (folder / name).write_text(json.dumps({"settings": {"note": note}, "cases": cases}), encoding="utf-8")


def row(text, start):
    line = next(line for line in text.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_page_is_what_the_generator_makes():
    assert guide_page.PAGE.read_text(encoding="utf-8") == guide_page.page(), "run python -m bench.guide_page"


def test_one_seed(tmp_path):
    write(tmp_path, "sweep-news.json", case(
        point({}, 0.02), point({"fisher_samples": 32}, 0.08, gradients=40), point({"fisher_samples": 128}, 0.04),
        point({"damping": 1e-2}, 0.1, seconds=2.0), {"settings": {"steps": 3}, "error": "no", "on_front": False},
    ))  # fmt: skip
    text = guide_page.page(tmp_path)
    assert row(text, "Damping | 0.01")[2:] == ["1 of 1", "5", "1", "1"]
    assert "damage by fisher_samples (32: 0.08, 128: 0.04, all: 0.02) falls." in text
    assert "news: the defaults are on the Pareto front." in text and "Could not be run: steps=3 (no; seed 0)." in text
    assert row(text, "damping=0.01 |")[1] == "" and row(text, "defaults |")[1] == "yes"
    absent = text.split("## Not run\n\n")[1].splitlines()
    assert [line for line in absent if "Fisher" in line] == [
        f"- Fisher Removal: {name}" for name in DATASETS if name != "news"
    ] + ["- Fisher Removal: news, seed 1", "- Fisher Removal: news, seed 2"]  # fmt: skip
    assert sum("Kronecker" in line for line in absent) == len(DATASETS)


def test_each_method_has_its_own_part(tmp_path):
    for file, damage in (("sweep-news.json", 0.04), ("sweep-kronecker-news.json", 0.02)):
        runs = [point({}, damage), point({"steps": 15}, damage / 2), point({"steps": 30}, damage)]
        write(tmp_path, file, case(*runs))
    first, second = guide_page.page(tmp_path).split("## Kronecker Removal\n")
    assert "the defaults are not on the Pareto front: steps=15 has 0.5 of their damage and 1 of their seconds." in first
    assert "Fisher Removal: news (news)" in first and "15: 0.02, 30: 0.04, 60: 0.04" in first
    assert "Kronecker Removal: news (news)" in second and "15: 0.01, 30: 0.02, 60: 0.02" in second


def three(*damages, **others):
    """Three seeds: the defaults' damage is .02, the other setting's as given."""
    return [
        case(point({}, 0.02), point({"damping": 1e-8}, damage, **others), seed=seed, target=0.1 + 0.01 * seed)
        for seed, damage in enumerate(damages)
    ]


def test_what_beats_the_defaults_on_two_seeds_of_three_leaves_them_on_the_front(tmp_path):
    write(tmp_path, "sweep-news.json", *three(0.018, 0.019, 0.0201))
    text = guide_page.page(tmp_path)
    assert "news: the defaults are on the Pareto front (on that of a single seed: 1 of 3)." in text
    assert row(text, "defaults |")[1:3] == ["yes", "3 of 3"]
    other = row(text, "damping=1e-08 |")
    assert other[1:4] == ["yes", "3 of 3", "0.1"] and other[5] == "0.019 (0.018 to 0.0201)"
    assert row(text, "Damping | 1e-08")[2:4] == ["3 of 3", "0.95"]
    assert "seeds 0, 1, 2. Target: a forget accuracy of 0.11 (0.1 to 0.12)" in text
    assert "Medians over 1 data sets, 3 pairs of data set and seed." in text


def test_what_beats_the_defaults_on_every_seed_takes_them_off_the_front(tmp_path):
    write(tmp_path, "sweep-news.json", *three(0.01, 0.014, 0.018), note="two at a time")
    text = guide_page.page(tmp_path)
    assert (
        "the defaults are not on the Pareto front (on that of a single seed: 0 of 3): damping=1e-08 has 0.7 of their "
        "damage and 1 of their gradients." in text
    )
    assert row(text, "defaults |")[1] == "" and row(text, "defaults |")[7] == "–"


def test_what_beats_them_by_less_than_chance_is_named(tmp_path):
    write(tmp_path, "sweep-news.json", *three(0.01995, 0.01992, 0.01995))
    assert (
        "news: the defaults are on the Pareto front (on that of a single seed: 3 of 3); were any difference of damage "
        "to count, not: damping=1e-08 has 0.997 of their damage and 1 of their seconds." in guide_page.page(tmp_path)
    )


def test_it_is_one_setting_that_must_beat_them_on_every_seed(tmp_path):
    cases = [
        case(point({}, 0.02), *(point({"damping": value}, 0.01 if value == best else 0.03) for value in (1e-8, 1e-4)))
        for best in (1e-8, 1e-4)
    ]
    write(tmp_path, "sweep-news.json", *cases)
    assert "the defaults are on the Pareto front (on that of a single seed: 0 of 2)" in guide_page.page(tmp_path)


def test_a_run_that_failed_on_one_seed_is_left_out(tmp_path):
    failed = {"settings": {"damping": 1e-8}, "error": "too large", "on_front": False}
    cases = [case(point({}, 0.02), point({"damping": 1e-8}, 0.01)), case(point({}, 0.02), failed, seed=1)]
    found = Swept([Seed(one, timed=True) for one in cases])
    assert found.names == [DEFAULTS] and found.beaten_by(DEFAULTS) == []
    write(tmp_path, "sweep-news.json", *cases)
    assert "Could not be run: damping=1e-08 (too large; seed 1)." in guide_page.page(tmp_path)


def test_more_of_something_else_is_no_beating():
    cases = [case(point({}, 0.02), point({"damping": 1e-8}, 0.01, gradients=101), seed=seed) for seed in range(2)]
    found = Swept([Seed(one, timed=False) for one in cases])
    assert found.beaten_by(DEFAULTS) == [] and found.beaten_by(name_for({"damping": 1e-8})) == []


def test_a_curve_says_on_how_many_seeds_a_setting_forgot(tmp_path):
    cases = [
        case(point({}, 0.02), point({"steps": 15}, 0.03, forget=left), point({"steps": 30}, 0.025), seed=seed)
        for seed, left in enumerate((0.1, 0.5))
    ]
    write(tmp_path, "sweep-news.json", *cases)
    assert "mean damage by steps (15: 0.03 (forgot 1 of 2), 30: 0.025, 60: 0.02) falls." in guide_page.page(tmp_path)


@pytest.mark.parametrize("method", FILES)
def test_every_axis_of_a_sweep_is_a_setting_and_has_words(method):
    axes = swept(method)
    assert points_of(method, axes)  # refuses what the method has not
    assert set(axes) <= set(guide_page.ADVICE)
