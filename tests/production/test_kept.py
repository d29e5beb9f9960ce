"""The method that needs no retained records, through all three stages: its kept Fisher is a file in the folder."""

from __future__ import annotations

import json

import pytest

from fastunlearn.cli.main import main
from fastunlearn.errors import InvalidInputError
from fastunlearn.evidence import verify
from fastunlearn.production.config import load_config
from fastunlearn.production.job import job_of
from fastunlearn.production.run import run_job

pytestmark = pytest.mark.slow


KEEP = ["keep-fisher", "--model", "original", "--data", "all.jsonl", "--out", "kept.safetensors", "--quiet"]


def with_kept_fisher(place, more=""):
    """Keeps a Fisher of all records, and has the configuration name it; its path."""
    lines = (place / "forget.jsonl").read_text() + (place / "retain.jsonl").read_text()
    (place / "all.jsonl").write_text(lines)
    assert main(KEEP) == 0
    path = place / "fastunlearn.toml"
    method = '[method]\nname = "fisher-removal-retain-free"\nkept_fisher = "kept.safetensors"\n[method.settings]'
    path.write_text(path.read_text().replace("[method.settings]", method) + more)
    return path


def test_a_state_with_another_kept_fisher_in_the_same_place_is_refused(place):
    path = with_kept_fisher(place)
    seen = []

    def stop(step):
        seen.append(step["step"])
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(job_of(load_config(place)), on_step=stop)
    (place / "kept.safetensors").rename(place / "true.safetensors")
    with pytest.raises(InvalidInputError, match=r"method\.kept_fisher: .* cannot be read"):
        run_job(job_of(load_config(place)))
    assert main([*KEEP, "--damping", "0.05"]) == 0
    with pytest.raises(InvalidInputError, match=r"other data or settings \(method\.kept_fisher\)"):
        run_job(job_of(load_config(place)))
    path.write_text(path.read_text().replace("kept.safetensors", "true.safetensors"))  # where it lies does not matter
    assert run_job(job_of(load_config(place))).restarted


def test_plan_pilot_and_run(place, capsys):
    with_kept_fisher(place, "[plan]\ncalibration_seconds = 1.0\n")
    capsys.readouterr()
    assert main(["plan", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 3
    assert main(["pilot", "--quiet"]) in (0, 1)
    assert main(["unlearn", "--config", ".", "--quiet"]) == 0
    found = verify(
        place / "evidence", model=place / "after", before=place / "original", records=job_of(load_config(place)).sets(),
        salts=place / "salts" / "evidence.json", kept_fisher=place / "kept.safetensors", recompute=True,
    )  # fmt: skip
    assert found.passed, [str(check) for check in found.failures]
