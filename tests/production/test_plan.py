"""The plan: fits that are right where the truth is known, a trial that changes nothing, and a plan that adds up."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from fastunlearn.cli.main import main
from fastunlearn.errors import OutputError
from fastunlearn.production import plan as module
from fastunlearn.production.config import load_config
from fastunlearn.production.job import job_of
from fastunlearn.production.plan import make_plan
from fastunlearn.production.trial import first_share, fit, growing, method_trials, sized
from fastunlearn.storage import load_model
from tests.unlearn.unchanged import bits, files, same_bits


@pytest.mark.parametrize("truth", [(3.0, 5.0, 2.0), (0.0, 4.0, 0.0), (1.0, 0.0, 7.0), (2.0, 0.0, 0.0)])
def test_a_polynomial_is_found_again(truth):
    a, b, c = truth
    shares = [0.1, 0.2, 0.4, 0.8]
    found = fit(shares, [a + b * s + c * s * s for s in shares])
    assert found.value() == pytest.approx(a + b + c, rel=1e-6) and found.coefficients == pytest.approx(truth, abs=1e-6)


def test_noise_gives_no_negative_part():
    found = fit([0.1, 0.2, 0.4, 0.8], [1.0, 0.9, 1.1, 1.0])
    assert min(found.coefficients) >= 0 and 0.8 < found.value() < 1.3


def test_few_points():
    assert fit([0.5], [3.0]).value() == pytest.approx(6.0)
    assert fit([0.25, 0.5], [2.0, 3.0]).value() == pytest.approx(5.0)
    assert fit([1.0], [3.0]).value() == pytest.approx(3.0)


def test_shares():
    sets = {"forget": list(range(50)), "retain": list(range(1000)), "held_out": None}
    part = sized(sets, 0.25)
    assert (len(part["forget"]), len(part["retain"]), part["held_out"]) == (12, 250, None)
    assert set(sized(sets, 0.25)["retain"]) <= set(range(1000)) and sized(sets, 1.0) == sets
    assert len(sized(sets, 1e-6)["retain"]) == 8 and len(sized(sets, 1e-6)["forget"]) == 2
    assert first_share(sets) == 0.256 and first_share({"forget": [1], "retain": None}) == 1.0
    seen = []
    growing(seen.append, 0.2, 1e9)
    assert seen == [0.2, 0.4, 0.8, 1.0]


@pytest.mark.parametrize("method", ["fisher-removal", "newton", "npo-retain", "finetune"])
def test_trials_change_nothing(place, method):
    job = job_of(load_config(place))
    model, tokenizer = load_model(place / "original")
    arguments = {**job.arguments(), "method": method}
    if method != "fisher-removal":
        arguments = {name: value for name, value in arguments.items() if name not in ("steps", "target_loss")}
    sets = {"forget": job.forget, "retain": list(job.retain), "held_out": list(job.held_out)}
    before = bits(model)
    trials, warming = method_trials(model, tokenizer, sets, arguments, seconds=0.5, looks=2)
    assert same_bits(bits(model), before)
    assert warming > 0 and trials[-1].share == 1.0 and trials[-1].setup > 0 and trials[-1].first > 0


@pytest.mark.slow
def test_the_plan_adds_up_and_writes_nothing(place, capsys):
    path = place / "fastunlearn.toml"
    path.write_text(path.read_text() + "[plan]\ncalibration_seconds = 2.0\nprice_per_hour = 7.2\n")
    before = files(place)
    plan = make_plan(job_of(load_config(place)))
    assert files(place) == before
    parts = {name: value for name, value in plan["seconds"].items() if name != "total"}
    assert plan["seconds"]["total"] == pytest.approx(sum(parts.values())) and min(parts.values()) >= 0
    assert plan["price"] == {"amount": pytest.approx(plan["seconds"]["total"] * 0.002), "currency": "USD"}
    assert plan["steps"] == 3 and plan["records"] == {"forget": 4, "retain": 16, "held_out": 12}
    assert plan["disk_bytes"]["most"] >= plan["disk_bytes"]["at the end"] > plan["model"]["bytes"]
    assert plan["peak_bytes"] > 50e6 and plan["weights_read"]
    assert main(["plan", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 3
    assert main(["plan", "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "if all 3 steps are taken" in shown and "Price" in shown
    assert files(place) == before


def test_without_weights_the_shapes_are_enough(place):
    path = place / "fastunlearn.toml"
    path.write_text(path.read_text() + "[plan]\ncalibration_seconds = 1.0\n")
    size = make_plan(job_of(load_config(place)))["model"]
    (place / "original" / "model.safetensors").unlink()
    plan = make_plan(job_of(load_config(place)))
    assert plan["model"] == size and plan["weights_read"] is False


def test_of_open_requests(place, capsys):
    shutil.copy(place / "forget.jsonl", place / "asked.jsonl")
    assert main(["requests", "add", "--id", "R-1", "--records", "asked.jsonl"]) == 0
    (place / "fastunlearn.toml").write_text(
        (place / "fastunlearn.toml").read_text() + "[plan]\ncalibration_seconds = 1.0\n"
    )
    capsys.readouterr()
    threads = torch.get_num_threads()
    assert main(["plan", "--requests", "--json", "--quiet"]) == 0 and torch.get_num_threads() == threads
    assert json.loads(capsys.readouterr().out)["records"]["forget"] == 4


def test_on_a_gpu(place, gpu):
    """A plan with ``device = "cuda"``, pretended: the trials run there."""
    path = place / "fastunlearn.toml"
    path.write_text(path.read_text().replace('folder = "original"', 'folder = "original"\ndevice = "cuda"'))
    with gpu("cuda"):
        plan = make_plan(job_of(load_config(place)))
    assert plan["trials"] and plan["seconds"]["total"] > 0


def test_a_place_where_nothing_can_be_written_is_named(monkeypatch, tmp_path):
    def refuses(*args, **more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.tempfile, "mkdtemp", refuses)
    with pytest.raises(OutputError, match=r"after could not be made: nothing can be written in .*Permission denied"):
        module._rates(tmp_path / "new" / "after")
