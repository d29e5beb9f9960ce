"""The pilot: go where all thresholds hold, no go with the reason where one does not, or where nothing can be told."""

from __future__ import annotations

import json

import pytest

from fastunlearn.cli.main import main
from fastunlearn.errors import InvalidInputError
from fastunlearn.production import pilot as module
from fastunlearn.production.config import load_config, make_config
from fastunlearn.production.pilot import decide, run_pilot
from fastunlearn.progress import NO_PROGRESS

CONFIG = make_config({"model": {"folder": "m"}})


def metrics(forget, retain, kl=0.01, auc=0.5):
    one = {"auc": auc, "low": 0.4, "high": 0.6}
    return {"forget": {"accuracy": forget}, "retain": {"accuracy": retain}, "kl_retain": kl,
            "membership": None if auc is None else one}  # fmt: skip


REFERENCES = [metrics(0.10, 0.97, 0.0, 0.48), metrics(0.14, 0.95, 0.02, 0.56)]
BEFORE = metrics(0.98, 0.97)


def failing(verdict):
    return [check.name for check in verdict.checks if check.holds is False]


def test_go():
    verdict = decide(BEFORE, metrics(0.19, 0.931), REFERENCES, CONFIG, None)
    assert verdict.go and failing(verdict) == [] and len(verdict.checks) == 4
    assert [check.value for check in verdict.checks] == pytest.approx([0.05, 0.019, 0.01, 0.02])


@pytest.mark.parametrize(
    ("after", "word"),
    [(metrics(0.20, 0.97), "forget accuracy"), (metrics(0.1, 0.929), "retained accuracy"),
     (metrics(0.1, 0.97, 0.051), "KL"), (metrics(0.1, 0.97, 0.01, 0.41), "membership"),
     (metrics(0.1, 0.97, 0.01, 0.63), "membership")],
)  # fmt: skip
def test_each_threshold_alone(after, word):
    verdict = decide(BEFORE, after, REFERENCES, CONFIG, None)
    assert not verdict.go and len(failing(verdict)) == 1 and word in failing(verdict)[0]
    assert sum("FAILS" in reason for reason in verdict.reasons) == 1


def test_what_was_not_measured_is_named_and_does_not_fail():
    verdict = decide(BEFORE, metrics(0.1, 0.97, 0.01, None), [metrics(0.1, 0.97, 0.0, None)], CONFIG, None)
    assert verdict.go and any(reason.startswith("Not measured: membership") for reason in verdict.reasons)


def test_a_model_that_had_not_learnt_tells_nothing():
    verdict = decide(metrics(0.2, 0.97), metrics(0.1, 0.97), REFERENCES, CONFIG, None)
    assert not verdict.go and failing(verdict) == [] and "raise pilot.steps" in verdict.reasons[-1]


@pytest.mark.parametrize(("key", "more"), [("model.folder", ""), ("pilot.base", 'base = "nowhere"\n')])
def test_without_a_model_the_key_is_named(place, capsys, key, more):
    if not more:
        (place / "original").rename(place / "nowhere-else")
    path = place / "fastunlearn.toml"
    path.write_text(path.read_text().replace("[pilot]\n", f"[pilot]\n{more}"))
    assert main(["pilot", "--quiet"]) == 2
    assert f"fastunlearn.toml: {key}: there is no folder" in capsys.readouterr().err


def test_hours():
    config = make_config({"model": {"folder": "m"}, "pilot": {"max_hours": 2.0}})
    assert decide(BEFORE, metrics(0.1, 0.97), REFERENCES, config, 1.9).go
    verdict = decide(BEFORE, metrics(0.1, 0.97), REFERENCES, config, 2.1)
    assert not verdict.go and failing(verdict) == ["hours of the production run"]


@pytest.mark.slow
@pytest.mark.parametrize("base", ["", "original"])
def test_the_whole_pilot(place, capsys, base):
    path = place / "fastunlearn.toml"
    wide = "max_forget_excess = 1.0\nmax_retain_loss = 1.0\nmax_kl_retain = 100.0\nmax_membership_gap = 1.0\n"
    text = path.read_text().replace("[pilot]\n", f'[pilot]\nbase = "{base}"\nreferences = 2\nmax_hours = 5.0\n{wide}')
    path.write_text(text + "[plan]\ncalibration_seconds = 1.0\n")
    before = {p.name for p in place.iterdir()}
    status = main(["pilot", "--quiet"])
    shown = capsys.readouterr().out
    held = json.loads((place / "pilot" / "pilot.json").read_text())
    assert (status, held["go"]) == ((0, True) if "\nGO." in shown else (1, False))
    assert {p.name for p in place.iterdir()} == before | {"pilot"} and len(held["references"]) == 2
    if not base:  # from new weights the references have never seen the records
        assert held["go"], held["reasons"]
    assert held["checks"][-1]["name"] == "hours of the production run" and held["checks"][-1]["value"] > 0
    assert (place / "pilot" / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_pilot_needs_data(place):
    path = place / "fastunlearn.toml"
    path.write_text(path.read_text().replace('forget = "forget.jsonl"', 'forget = ""'))
    with pytest.raises(InvalidInputError, match=r"needs data\.forget"):
        run_pilot(load_config(place))


def test_records_to_forget_are_left_out_of_the_other_sets(place, monkeypatch):
    path = place / "forget.jsonl"
    for name in ("retain", "held_out"):
        other = place / f"{name}.jsonl"
        other.write_text(path.read_text() + other.read_text())
    made = module._Pilot(load_config(place), NO_PROGRESS)
    assert {name: len(samples) for name, samples in made.sets.items()} == {"forget": 4, "retain": 16, "held_out": 12}


@pytest.mark.parametrize("name", ["retain", "held_out"])
def test_a_set_that_has_nothing_but_records_to_forget_is_named(place, capsys, name):
    (place / f"{name}.jsonl").write_text((place / "forget.jsonl").read_text())
    assert main(["pilot", "--quiet"]) == 2
    assert f"fastunlearn.toml: data.{name} has only records that data.forget has too" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_told_before_anything_is_trained(place, capsys, monkeypatch):
    monkeypatch.setattr(module, "train", lambda *args, **more: pytest.fail("a model was trained"))
    (place / "pilot").write_text("a file")
    assert main(["pilot", "--quiet"]) == 2
    assert "pilot is a file" in capsys.readouterr().err
