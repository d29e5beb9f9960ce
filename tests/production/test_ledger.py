"""The ledger: nothing is lost, nothing is taken twice, texts go when they are purged, and it stays what it is."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fastunlearn.data.records import Record
from fastunlearn.errors import InvalidInputError, OutputError
from fastunlearn.production import ledger as module
from fastunlearn.production.ledger import Ledger
from fastunlearn.storage.lock import exclusive

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = Record("<script>alert(1)</script>", " \x07\x1b[31m'); DROP TABLE requests; -- \u202e ümläut")


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite", make=True) as made:
        yield made


def test_from_open_to_done(ledger):
    first = ledger.add("R-1", [Record("a", " b"), Record("c", " d"), Record("a", " b")])
    assert (first.status, first.records, first.run, first.evidence) == ("open", 2, None, None)
    ledger.add("R-2", [HOSTILE])
    run = ledger.begin("model", "after", "evidence")
    assert (run.out, run.evidence, run.status) == ("after-0001", "evidence-0001", "running")
    late = ledger.add("R-3", [Record("e", " f")])  # comes in while the run is at work: the next one takes it
    assert [one.status for one in ledger.requests()] == ["running", "running", "open"] and late.run is None
    assert ledger.texts(ledger.request("R-2")) == [HOSTILE]
    ledger.finish(run, {b"x" * 32: 1})
    ledger.finish(run, {b"x" * 32: 1})
    assert ledger.request("R-1").evidence == "evidence-0001" and ledger.request("R-3").evidence is None
    assert ledger.dependents(1) == [(b"x" * 32, 1)]
    assert ledger.forgotten() == {b"x" * 32, *map(ledger.hash, [Record("a", " b"), Record("c", " d"), HOSTILE])}
    assert ledger.begin("after-0001", "after", "evidence").number == 2


def test_given_up_requests_are_open_again(ledger):
    ledger.add("R-1", [Record("a", " b")])
    ledger.give_up(ledger.begin("m", "o", "e"))
    assert ledger.request("R-1").status == "open" and ledger.runs() == []


def test_purged_texts_are_gone_from_the_file(ledger):
    secret = "Zanzibarischgrün " * 200
    ledger.add("R-1", [Record("prompt of it ", secret)])
    ledger.add("R-2", [Record("kept", " marker-that-stays")])
    assert secret[:40].encode() in ledger.path.read_bytes()
    run = ledger.begin("m", "o", "e")
    ledger.add("R-3", [Record("open", " marker-still-open")])
    ledger.finish(run, {})
    assert ledger.purge() == 2 and ledger.purge() == 0
    held = b"".join(path.read_bytes() for path in ledger.path.parent.iterdir())
    assert b"Zanzibar" not in held and b"marker-that-stays" not in held and b"marker-still-open" in held
    assert ledger.texts(ledger.request("R-1")) == [] and ledger.request("R-1").records == 1


@pytest.mark.parametrize("id", ["", "two words", "../x", "<b>", "a\nb", "a" * 101, "é", "-x", None])
def test_identifiers_are_plain(ledger, id):
    with pytest.raises(InvalidInputError, match="id must be"):
        ledger.add(id, [Record("a", " b")])


def test_taken_unknown_and_empty(ledger):
    ledger.add("R-1", [Record("a", " b")])
    with pytest.raises(InvalidInputError, match="R-1 is in the ledger already"):
        ledger.add("R-1", [Record("c", " d")])
    with pytest.raises(InvalidInputError, match="no records"):
        ledger.add("R-2", [])
    with pytest.raises(InvalidInputError, match="not in the ledger"):
        ledger.request("R-9")
    ledger.begin("m", "o", "e")
    with pytest.raises(InvalidInputError, match="no request is open"):
        ledger.begin("m", "o", "e")


def test_other_files_are_left_alone(tmp_path):
    with pytest.raises(InvalidInputError, match="requests add"):
        Ledger(tmp_path / "none.sqlite")
    (tmp_path / "text.sqlite").write_text("this is no database, " * 100)
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE mine (x)")
    other.close()
    for name, word in (("text.sqlite", "no ledger"), ("other.sqlite", "another program")):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(InvalidInputError, match=word):
            Ledger(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before


def test_a_clock_that_is_set_back_is_noted_and_the_order_stays(ledger, monkeypatch):
    for number, day in enumerate((2, 1, 3)):
        monkeypatch.setattr(module, "now", lambda day=day: f"2026-05-0{day}T10:00:00+00:00")
        ledger.add(f"R-{number}", [Record("a", f" {number}")])
    found = [(one.id, one.clock_set_back) for one in ledger.requests()]
    assert found == [("R-0", False), ("R-1", True), ("R-2", False)]


def test_one_process_at_a_time(tmp_path):
    """The second is refused by name; a process that is killed leaves no lock behind."""
    script = """
        import sys, time
        from fastunlearn.storage.lock import exclusive
        with exclusive(sys.argv[1], "the ledger"):
            print("held", flush=True)
            time.sleep(60)
    """
    path = tmp_path / "lock"
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match=f"the ledger is in use by another run .process {other.pid}"), \
                exclusive(path, "the ledger"):  # fmt: skip
            pass
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    with exclusive(path, "the ledger"):
        assert path.exists()
    assert not path.exists()


@pytest.mark.slow
def test_no_request_is_lost_by_a_kill(tmp_path):
    """A process that adds requests is killed again and again: what it said was added is there, whole."""
    script = """
        import sys
        from fastunlearn.data.records import Record
        from fastunlearn.production.ledger import Ledger
        with Ledger(sys.argv[1], make=True) as ledger:
            for number in range(int(sys.argv[2]), 10**6):
                ledger.add(f"R-{number}", [Record("p", f" {number} {part}") for part in range(20)])
                print(number, flush=True)
    """
    path, said = tmp_path / "ledger.sqlite", -1
    for turn in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), str(path), str(1000 * turn)], stdout=subprocess.PIPE,
            text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        for _ in range(3 + 4 * turn):
            said = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = process.communicate()[0].split()
        said = int(rest[-1]) if rest else said
        with Ledger(path) as ledger:
            found = ledger.requests()
            numbers = [int(one.id[2:]) for one in found if int(one.id[2:]) >= 1000 * turn]
            assert numbers == list(range(1000 * turn, 1000 * turn + len(numbers))) and numbers[-1] in (said, said + 1)
            assert all(one.records == 20 and len(ledger.texts(one)) == 20 for one in found[-3:])


def test_a_ledger_that_another_process_holds_is_named_also_by_a_hash(ledger):
    other = sqlite3.connect(ledger.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    ledger._db.execute("PRAGMA busy_timeout = 0")
    with pytest.raises(OutputError, match=r"ledger\.sqlite .*locked"):
        ledger.hash(HOSTILE)
    other.close()
