"""The section on exact products, from cases whose figures can be checked by hand."""

from __future__ import annotations

from bench.results_products import products_section


def point(damage, gradients, forget=0.1, **settings):
    return {"settings": settings, "error": None, "damage": damage, "gradients": gradients, "forget_accuracy": forget}


def subject():
    cases = [
        {"dataset": "news", "seed": seed, "retrained_interval": [0.1, 0.05, 0.2], "budget": 400} for seed in (0, 1, 2)
    ]
    swept = [
        {"about": {"seed": 0, "original": {"damage": 0.01}}, "points": [
            point(0.03, 100), point(0.02, 300, products=4), point(0.9, 5, steps=1), point(0.8, 5, products=4, steps=1),
        ]},
        {"about": {"seed": 1, "original": {"damage": 0.01}}, "points": [
            point(0.02, 100, forget=0.1), point(0.012, 500, forget=0.21, products=4),
        ]},
        {"about": {"seed": 2, "original": {"damage": 0.01}}, "points": [point(0.02, 100)]},  # not swept to the end
    ]  # fmt: skip
    return cases, {"news": {"cases": swept}}


def test_rows_and_sums():
    cases, sweeps = subject()
    best = {0: ("npo", 0.04), 1: ("rmu", 0.018)}
    text = products_section(cases, sweeps, lambda case: best[case["seed"]])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "| news" in line]
    assert rows == [
        ["news", "0", "0.01", "0.03", "0.02", "0.75", "0.5", "100 / 300", "0.75"],
        ["news", "1", "0.01", "0.02", "0.012", "1.11", "0.667*", "100 / 500", "1.25"],
    ]
    # added: .01 of .02 and .002 of .01
    assert "With 4: 0.35 of what" in text and "at most 0.5), for 4 times its gradients" in text
    assert "at most 0.5 in 1 of 2 cases" in text and "Without: in 0. In 1 the untouched" in text


def test_what_has_not_forgotten_is_not_counted():
    cases, sweeps = subject()
    text = products_section(cases, sweeps, lambda case: ("npo", 10.0))
    assert "at most 0.5 in 1 of 2 cases" in text and "Without: in 2. In 0 the untouched" in text


def test_without_a_first_order_point_there_is_no_ratio_and_without_a_sweep_no_section():
    cases, sweeps = subject()
    text = products_section(cases, sweeps, lambda case: None)
    assert "| – | – | 100 / 300 |" in text and "at most 0.5 in 0 of 2 cases" in text
    assert products_section(cases, {}, lambda case: None) == ""
    for case in sweeps["news"]["cases"]:
        case["points"] = [one for one in case["points"] if "products" not in one["settings"]]
    assert products_section(cases, sweeps, lambda case: None) == ""
