"""``fastunlearn sweep``: a table, a plot, going on after a stop, and what it refuses."""

from __future__ import annotations

import json

import pytest

SETS = ("forget", "retain", "held_out")


@pytest.fixture
def sweep(command, records, make_model, tmp_path):
    model = make_model("model")

    def run(*more, out="sweep"):
        sets = [part for name in SETS for part in (f"--{name.replace('_', '-')}", records[name])]
        return command("sweep", "--model", model, *sets, "--out", tmp_path / out, "--quiet", *more)

    return run


def test_a_sweep(sweep, make_model, tmp_path):
    arguments = (
        "--vary", "damping=[1e-3,1e-1]", "--vary", 'parameters=["*mlp*"]', "--set", "steps=1",
        "--set", "target_loss=99.0", "--reference", make_model("other", seed=1),
    )  # fmt: skip
    status, out, err = sweep(*arguments)
    assert status == 0, err
    document = json.loads((tmp_path / "sweep" / "sweep.json").read_text(encoding="utf-8"))
    settings = [point["settings"] for point in document["points"]]
    fixed = {"steps": 1, "target_loss": 99.0}
    assert settings == [fixed, {**fixed, "damping": 1e-3}, {**fixed, "damping": 1e-1}, {**fixed, "parameters": "*mlp*"}]
    assert all(point["error"] is None for point in document["points"])
    assert "damping=0.1" in out and "Forget accuracy" in out and "report.html" in out
    page = (tmp_path / "sweep" / "report.html").read_text(encoding="utf-8")
    assert "Settings of fisher-removal" in page and "<svg" in page
    before = (tmp_path / "sweep" / "sweep.json").read_bytes()
    assert sweep(*arguments)[0] == 0  # nothing is left to do
    assert (tmp_path / "sweep" / "sweep.json").read_bytes() == before


def test_the_folder_is_looked_at_before_anything_is_computed(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr("fastunlearn.evaluation.sweep.sweep", lambda *_args, **_options: pytest.fail("it ran"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    for out, words in (("full", "holds no sweep"), ("full/mine.txt", "mine.txt is a file")):
        status, _, err = sweep(out=out)
        assert status == 2 and words in err and err.count("\n") == 1
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--vary", "damping=1e-3"), "give a JSON list"),
        (("--vary", "damping=[1]", "--vary", "damping=[2]"), "given twice"),
        (("--vary", "dampin=[1]"), "no setting 'dampin'"),
        (("--method", "magic"), "unknown"),
        (("--set", "steps=0"), "steps=0"),
    ],
)
def test_what_is_refused(sweep, tmp_path, more, words):
    status, _, err = sweep(*more)
    assert status == 2 and words in err and err.count("\n") == 1
    assert not (tmp_path / "sweep").exists()
