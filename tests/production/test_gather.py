"""Requests to a run: gathered, dependent records found, later runs start from the last model, nothing comes back."""

from __future__ import annotations

import json

import pytest

from fastunlearn.cli.main import main
from fastunlearn.data import train_tokenizer
from fastunlearn.data.loading import load_records
from fastunlearn.data.records import Record
from fastunlearn.errors import InvalidInputError
from fastunlearn.evidence import find_traces, verify
from fastunlearn.production.config import load_config
from fastunlearn.production.gather import gather, run_requests, would_be
from fastunlearn.production.ledger import Ledger
from fastunlearn.storage import save_model
from fastunlearn.training import build_model
from tests.production.conftest import CONTEXT, write_records


@pytest.fixture
def two(place):
    """Requests R-1 and R-2 of two people; the retained file holds all that the model learnt, a near copy of one record
    to forget and another copy with other spaces."""
    forget, retain = load_records(place / "forget.jsonl"), load_records(place / "retain.jsonl")
    near = Record(forget[0].prompt.replace(" ", "  ", 1), forget[0].completion)
    write_records(place / "retain.jsonl", [*forget, *retain, near])
    with Ledger(place / "requests.sqlite", make=True) as ledger:
        ledger.add("R-1", forget[:2])
        ledger.add("R-2", forget[2:])
    return place, forget, retain, near


def set_option(place, text):
    path = place / "fastunlearn.toml"
    path.write_text(path.read_text() + text)


def test_each_record_once_and_dependents_with_their_request(two):
    place, forget, retain, near = two
    job = would_be(load_config(place))
    assert [one.id for one in job.requests] == ["R-1", "R-2"]
    assert list(job.requests[0].records) == [forget[0], forget[1], near] and list(job.requests[1].records) == forget[2:]
    assert list(job.retain) == retain and len(job.notes) == 1 and "1 retained records" in job.notes[0]
    with Ledger(place / "requests.sqlite") as ledger:
        assert [one.status for one in ledger.requests()] == ["open", "open"] and ledger.runs() == []


def test_requests_that_share_records_are_one_proof(two):
    place, forget, _, _ = two
    with Ledger(place / "requests.sqlite") as ledger:
        ledger.add("R-3", [forget[0]])  # covered by R-1 altogether
        ledger.add("R-4", [Record("new", " one")])
        ledger.add("R-5", [forget[3], Record("new", " one")])  # joins
    found = {one.id: len(one.records) for one in would_be(load_config(place)).requests}
    assert found == {"R-1, R-3": 3, "R-2, R-4, R-5": 3}
    assert len(set(would_be(load_config(place)).forget)) == len(would_be(load_config(place)).forget) == 6


def test_dropped_or_refused(two):
    place, forget, retain, _ = two
    set_option(place, '[requests]\ndependents = "drop"\n')
    job = would_be(load_config(place))
    assert job.forget == forget and list(job.retain) == retain and "left out" in job.notes[0]
    path = place / "fastunlearn.toml"
    path.write_text(path.read_text().replace('"drop"', '"refuse"'))
    with pytest.raises(InvalidInputError, match=r"requests\.dependents"):
        run_requests(load_config(place))
    with Ledger(place / "requests.sqlite") as ledger:
        assert [one.status for one in ledger.requests()] == ["open", "open"] and ledger.runs() == []


@pytest.mark.slow
def test_two_runs_one_after_the_other(two, capsys):
    place, forget, retain, near = two
    config = load_config(place)
    run, outcome, left = run_requests(config)
    assert left == [] and run.number == 1
    with Ledger(place / "requests.sqlite") as ledger:
        assert [(one.status, one.evidence) for one in ledger.requests()] == [("done", "evidence-0001")] * 2
        assert ledger.forgotten() == {ledger.hash(one) for one in (*forget, near)}
        assert ledger.dependents(1) == [(ledger.hash(near), 1)]
        ledger.add("R-3", retain[:2])
        second = ledger.begin(outcome.out.name, "after", "evidence")
        gathered = gather(config, ledger, second)
        assert list(gathered.job.retain) == retain[2:]  # what the first run forgot does not come back as retained
        ledger.give_up(second)
    assert find_traces([place / "requests.sqlite"], forget[:1]) == [] or retain[0].prompt[-20:] in forget[0].text
    run, outcome, left = run_requests(config)
    assert run.before == "after-0001" and outcome.out == place / "after-0002"
    assert verify(place / "evidence-0002", model=place / "after-0002", before=place / "after-0001").passed
    held = json.loads((place / "evidence-0002" / "requests.json").read_text())
    assert [one["id"] for one in held["requests"]] == ["R-3"]
    capsys.readouterr()
    run_id = json.loads((place / "after-0001" / "unlearning.json").read_text())["run"]
    proof = ["done", "evidence-0001", f"Run identifier: {run_id}"]
    for line, words in ((["list"], ["R-1", "R-3", "evidence-0002"]), (["status", "R-2"], proof)):
        assert main(["requests", *line]) == 0
        shown = capsys.readouterr().out
        assert all(word in shown for word in words)
    before = sorted(path.name for path in place.iterdir())
    (place / ".state-0001.lock").touch()  # as of a run that was killed when its state was gone and its lock was not
    with pytest.raises(InvalidInputError, match="no request is open"):
        run_requests(config)
    assert sorted(path.name for path in place.iterdir()) == before


def test_a_word_of_the_tokenizer_is_no_text_left_behind(place):
    """To delete the file that holds it, as was once told, would destroy the new model."""
    record = Record("Jane Doe works as a", " photographer")
    texts = [one.text for name in ("forget", "retain", "held_out") for one in load_records(place / f"{name}.jsonl")]
    tokenizer = train_tokenizer([*texts, record.text])
    model = build_model(tokenizer, hidden_size=16, layers=1, heads=2, context=CONTEXT, seed=0)
    save_model(model, tokenizer, place / "original", overwrite=True)
    with Ledger(place / "requests.sqlite", make=True) as ledger:
        ledger.add("R-1", [record])
    _, outcome, left = run_requests(load_config(place))
    assert left == [] and b"photographer" in (outcome.out / "tokenizer.json").read_bytes()
    assert find_traces(outcome.out, [record]) != []


def test_dry_run_and_errors_of_the_command(two, capsys):
    place = two[0]
    before = sorted(p.name for p in place.iterdir())
    assert main(["requests", "run", "--dry-run"]) == 0 and "R-1, R-2" in capsys.readouterr().out
    assert sorted(p.name for p in place.iterdir()) == before
    assert main(["requests", "status", "R-7"]) == 2 and "R-7" in capsys.readouterr().err
    assert main(["requests", "add", "--id", "R-1", "--records", "forget.jsonl"]) == 2
    assert "already" in capsys.readouterr().err
