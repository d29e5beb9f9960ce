"""The production run: what it makes, what it refuses, and that it takes up what was interrupted."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest

from fastunlearn.cli.main import main
from fastunlearn.errors import InvalidInputError, OutputError
from fastunlearn.evidence import environment as environment_module
from fastunlearn.evidence import verify
from fastunlearn.production import run as module
from fastunlearn.production.config import load_config
from fastunlearn.production.job import job_of
from fastunlearn.production.run import check_job, run_job


class Killed(BaseException):
    """Stands for a kill."""


def weights(folder) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def job(place):
    return job_of(load_config(place))


def names(place) -> set[str]:
    return {path.name for path in place.iterdir()}


BEFORE = {"fastunlearn.toml", "original", "forget.jsonl", "retain.jsonl", "held_out.jsonl"}
AFTER = BEFORE | {"after", "evidence", "keys", "salts"}


@pytest.fixture
def stop_at_step(monkeypatch):
    """``stop_at_step(n)``: an on_step that stops there."""

    def make(number):
        def on_step(step):
            if step["step"] == number:
                raise Killed

        return on_step

    return make


def test_a_run_and_its_evidence(place):
    before = weights(place / "original")
    outcome = run_job(job(place))
    assert names(place) == AFTER and weights(place / "original") == before != weights(place / "after")
    assert not outcome.restarted and len(outcome.account["steps"]) == 4
    result = verify(
        place / "evidence", model=place / "after", before=place / "original", records=job(place).sets(),
        salts=place / "salts" / "evidence.json", public_key=place / "keys" / "public.pem", recompute=True,
    )  # fmt: skip
    assert result.passed, [str(check) for check in result.failures]
    assert {"report.html", "report.json"} <= names(place / "evidence")


def test_attacks_go_into_the_evidence(place):
    path = place / "fastunlearn.toml"
    shutil.copytree(place / "original", place / "reference")
    text = path.read_text().replace('folder = "original"', 'folder = "original"\nreference = "reference"')
    path.write_text(text + '[evidence]\nattacks = ["quantise-int8", "quantise-int4"]\nlang = "ja"\n')
    run_job(job(place))
    held = json.loads((place / "evidence" / "metrics.json").read_text())
    assert set(held["attacks"]) == {"quantise-int8", "quantise-int4"} and held["reference"]["kl_retain"] == 0
    said = (place / "evidence" / "not_claimed.json").read_text()
    assert "were not tried" in said and "relearn" in said
    assert "何を消去したか" in (place / "evidence" / "report.html").read_text(encoding="utf-8")
    assert verify(place / "evidence", model=place / "after", reference=place / "reference").passed
    path.write_text(text + '[evidence]\nattacks = ["quantise-int5"]\n')
    with pytest.raises(InvalidInputError, match="did you mean 'quantise-int"):
        job(place)


def test_dry_run_writes_nothing(place, capsys):
    assert main(["unlearn", "--config", "fastunlearn.toml", "--dry-run"]) == 0
    assert names(place) == BEFORE
    out = capsys.readouterr().out
    assert "4 " in out.replace("forget records: 4", "4 ") and "nothing was written" in out
    facts = check_job(job(place))
    assert (facts["forget records"], facts["retain records"]) == (4, 16)


def test_taken_up_after_every_step(place, tmp_path, stop_at_step):
    run_job(job(place))
    whole = weights(place / "after")
    for number in (0, 1, 2, 3):
        other = tmp_path / f"again-{number}"
        shutil.copytree(place, other, ignore=shutil.ignore_patterns("after", "evidence", "keys", "salts"))
        with pytest.raises(Killed):
            run_job(job(other), on_step=stop_at_step(number))
        assert "state" in names(other) and "after" not in names(other)
        seen = []
        outcome = run_job(job(other), on_step=lambda step, seen=seen: seen.append(step["step"]))
        assert outcome.restarted and weights(other / "after") == whole and names(other) == AFTER
        assert seen == list(range(max(0, number), 4)) if number != 1 else seen == [0, 1, 2, 3]
        assert verify(other / "evidence", model=other / "after").passed


@pytest.mark.parametrize("where", ["prove", "remove_state"])
def test_taken_up_after_the_steps(place, monkeypatch, where):
    whole = run_job(job(place))
    before = weights(whole.out)
    for name in ("after", "evidence", "keys", "salts"):
        shutil.rmtree(place / name)

    def killed(*_args, **_options):
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(module, where, killed)
        run_job(job(place))
    assert "state" in names(place) and weights(place / "after") == before
    done = []
    outcome = run_job(job(place), on_done=lambda: done.append(True))
    assert outcome.restarted and names(place) == AFTER and done == [True]
    assert verify(place / "evidence", model=place / "after").passed and weights(place / "after") == before


@pytest.mark.parametrize("name", ["after", "evidence"])
def test_it_overwrites_nothing(place, name):
    (place / name).mkdir()
    (place / name / "mine").write_text("x")
    key = {"after": "model.out", "evidence": "evidence.folder"}[name]
    with pytest.raises(OutputError, match=f"there already: move it away, or set another {key} in fastunlearn.toml"):
        run_job(job(place))
    assert names(place) == BEFORE | {name} and (place / name / "mine").read_text() == "x"


@pytest.mark.parametrize("manifest", [None, "{}", '{"run": "another"}', "[]", "x"])
def test_evidence_that_appears_meanwhile_is_not_taken_for_this_run(place, monkeypatch, manifest):
    def killed(*_args, **_options):
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(module, "prove", killed)
        run_job(job(place))
    (place / "evidence").mkdir()
    if manifest is not None:
        (place / "evidence" / "manifest.json").write_text(manifest)
    for _ in range(2):
        with pytest.raises(OutputError, match="evidence is there already"):
            run_job(job(place), on_done=lambda: pytest.fail("it was marked as done"))
    assert (place / "state" / "run.json").is_file()
    shutil.rmtree(place / "evidence")
    assert run_job(job(place)).restarted and verify(place / "evidence", model=place / "after").passed


def test_the_salts_of_another_run_are_told_before_anything_is_computed(place, stop_at_step):
    run_job(job(place))
    for name in ("after", "evidence"):
        shutil.rmtree(place / name)  # the run is given up, and its salts are left
    seen = []
    with pytest.raises(InvalidInputError, match=r"holds the salts of another run: .* delete the file if"):
        run_job(job(place), on_step=seen.append)
    with pytest.raises(InvalidInputError, match="salts of another run"):
        check_job(job(place))
    assert seen == [] and names(place) == AFTER - {"after", "evidence"}
    (place / "salts" / "evidence.json").rename(place / "other.json")
    with pytest.raises(Killed):
        run_job(job(place), on_step=stop_at_step(1))
    (place / "other.json").rename(place / "salts" / "evidence.json")
    with pytest.raises(InvalidInputError, match="salts of another run"):
        run_job(job(place), on_step=seen.append)
    assert seen == []


def test_text_of_a_record_in_the_configuration_is_told_before_anything_is_computed(place):
    text = json.loads((place / "forget.jsonl").read_text().splitlines()[0])
    name = f"{text['prompt']}{text['completion']}.jsonl".replace("/", " ")
    (place / "retain.jsonl").rename(place / name)
    path = place / "fastunlearn.toml"
    path.write_text(path.read_text().replace("retain.jsonl", name))
    before = names(place)
    for go in (run_job, check_job):
        with pytest.raises(OutputError, match=r"configuration\.json would hold text of record 1 of forget") as caught:
            go(job(place))
        assert text["prompt"] not in str(caught.value)
    assert names(place) == before


def test_a_model_that_appears_meanwhile_is_not_overwritten(place, stop_at_step):
    with pytest.raises(Killed):
        run_job(job(place), on_step=stop_at_step(2))
    shutil.copytree(place / "original", place / "after")
    with pytest.raises(OutputError, match="not of this run"):
        run_job(job(place))
    assert weights(place / "after") == weights(place / "original")


@pytest.mark.parametrize(
    ("change", "word"),
    [("forget.jsonl", "the forget records"), ("retain.jsonl", "the retain records"), ("steps = 3", "method"),
     ("threads = 1", "run.threads"), ("model", "model.folder"), ("spaces", "the held_out records"),
     ("tokenizer_config.json", "model.folder"), ("config.json", "model.folder"), ("device", "model.device"),
     ("machine", "the machine and its software")],
)  # fmt: skip
def test_a_state_of_another_run_is_refused(place, stop_at_step, monkeypatch, change, word):
    with pytest.raises(Killed):
        run_job(job(place), on_step=stop_at_step(2))
    held = {path.name: path.read_bytes() for path in (place / "state").iterdir()}
    if change.endswith("jsonl"):
        lines = (place / change).read_text().splitlines()
        (place / change).write_text("\n".join(lines[1:]) + "\n")
    elif change == "model":
        from fastunlearn.storage import load_model, save_model

        model, tokenizer = load_model(place / "original")
        model.lm_head.weight.data.add_(1e-3)
        save_model(model, tokenizer, place / "original", overwrite=True)
    elif change == "spaces":  # other tokens, of a text that is the same but for them
        rows = [json.loads(line) for line in (place / "held_out.jsonl").read_text().splitlines()]
        rows[0] = {"prompt": rows[0]["prompt"] + " \n ", "completion": rows[0]["completion"].strip()}
        (place / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif change.endswith(".json"):
        path = place / "original" / change
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 40}))
    elif change == "device":
        path = place / "fastunlearn.toml"
        path.write_text(path.read_text().replace('folder = "original"', 'folder = "original"\ndevice = "cpu:0"'))
    elif change == "machine":
        monkeypatch.setattr(environment_module, "processor", lambda: "another")
    else:
        path = place / "fastunlearn.toml"
        path.write_text(path.read_text().replace(change, change[:-1] + "2"))
    with pytest.raises(InvalidInputError, match="other data or settings") as caught:
        run_job(job(place))
    assert word in str(caught.value)
    assert {path.name: path.read_bytes() for path in (place / "state").iterdir()} == held


def test_a_folder_that_is_no_state_is_left_alone(place):
    (place / "state").mkdir()
    (place / "state" / "mine.txt").write_text("x")
    with pytest.raises(OutputError, match="no state of a run"):
        run_job(job(place))
    assert (place / "state" / "mine.txt").read_text() == "x" and names(place) == BEFORE | {"state"}


def test_nothing_to_do_makes_nothing(place):
    path = place / "fastunlearn.toml"
    path.write_text(path.read_text().replace("target_accuracy = 0.0", "target_accuracy = 1.0").replace("50.0", "0.0"))
    with pytest.raises(InvalidInputError, match="nothing was changed"):
        run_job(job(place))
    assert names(place) == BEFORE


def test_methods_without_a_state_start_again(place, stop_at_step):
    path = place / "fastunlearn.toml"
    text = path.read_text().replace("[method.settings]\nsteps = 3", (
        '[method]\nname = "bounded-difference"\n[method.settings]\ngradients = 96\nlearning_rate = 0.01'
    ))  # fmt: skip
    path.write_text(text)
    with pytest.raises(Killed):
        run_job(job(place), on_step=stop_at_step(1))
    assert run_job(job(place)).restarted and names(place) == AFTER


def test_the_command_line(place, capsys):
    assert main(["unlearn", "--config", ".", "--quiet"]) == 0
    out, account = capsys.readouterr().out, json.loads((place / "after" / "unlearning.json").read_text())
    assert "Evidence: " in out and f"Run identifier: {account['run']} " in out
    assert account["method"] == "fisher-removal" and verify(place / "evidence", run=account["run"]).passed
    for line, word in (
        (["--config", ".", "--model", "x"], "leave out --model"),
        (["--config", ".", "--set", "steps=1"], "leave out --set"),
        (["--config", ".", "--method", "newton"], "leave out --method (set method.name in fastunlearn.toml)"),
        (["--config", ".", "--seed", "0", "--device", "cpu"], "leave out --seed, --device (set method.seed, model."),
        (["--config", ".", "--memory", "5GB"], "leave out --memory"),
        (["--config", ".", "--trust-remote-code", "--truncate"], "leave out --truncate, --trust-remote-code"),
        (["--dry-run", "--model", "m", "--forget", "f", "--out", "o"], "--dry-run goes with --config"),
        (["--model", "m"], "--forget, --out needed"),
        (["--config", "."], "there already"),
    ):
        assert main(["unlearn", *line, "--quiet"]) == 2 and word in capsys.readouterr().err, line


def test_on_a_gpu(place, gpu):
    """A run and the check of its evidence with ``device = "cuda"``, pretended."""
    path = place / "fastunlearn.toml"
    path.write_text(path.read_text().replace('folder = "original"', 'folder = "original"\ndevice = "cuda"'))
    with gpu("cuda"):
        outcome = run_job(job(place))
        assert len(outcome.account["steps"]) == 4
        result = verify(
            place / "evidence", model=place / "after", before=place / "original", records=job(place).sets(),
            salts=place / "salts" / "evidence.json", public_key=place / "keys" / "public.pem", recompute=True,
            device="cuda",
        )  # fmt: skip
    assert result.passed, [str(check) for check in result.failures]
