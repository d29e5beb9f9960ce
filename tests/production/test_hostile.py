"""A full disk, a read-only folder, two runs at once, a clock set back, hostile records: nothing is lost, nothing is
executed, and the message says what it was."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fastunlearn.cli.main import main
from fastunlearn.data.records import Record
from fastunlearn.errors import FastUnlearnError, OutputError
from fastunlearn.evidence import log as log_module
from fastunlearn.evidence import verify
from fastunlearn.production import ledger as ledger_module
from fastunlearn.production.config import load_config
from fastunlearn.production.gather import run_requests
from fastunlearn.production.ledger import Ledger
from fastunlearn.storage.lock import exclusive
from tests.production.conftest import write_records

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = Record(
    "<script>alert('pwned')</script> <img src=x onerror=alert(1)>", " \x1b]0;pwned\x07 \x00\u202e '); DROP TABLE x;--"
)


@contextlib.contextmanager
def full_disk(limit: int):
    """No file may become larger than ``limit`` bytes, as on a disk with so much left (it becomes an OSError)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def add(place, *ids):
    for number, id in enumerate(ids):
        assert main(["requests", "add", "--id", id, "--records", f"part-{number}.jsonl"]) == 0


@pytest.fixture
def asked(place):
    """Two requests in the ledger."""
    lines = (place / "forget.jsonl").read_text().splitlines(keepends=True)
    for number in (0, 1):
        (place / f"part-{number}.jsonl").write_text("".join(lines[number::2]))
    add(place, "R-1", "R-2")
    return place


def statuses(place):
    with Ledger(place / "requests.sqlite") as ledger:
        return [one.status for one in ledger.requests()]


def weights(place):
    return hashlib.sha256((place / "after-0001" / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_full_disk_loses_nothing(asked, tmp_path):
    """At whatever size the disk is full: an error with a name, or an unbroken run; then, with room, the same end."""
    whole = tmp_path / "whole"
    shutil.copytree(asked, whole)
    run_requests(load_config(whole))
    failed = 0
    for limit in (0, 400, 3000, 12_000, 30_000, 60_000):
        other = tmp_path / f"limit-{limit}"
        shutil.copytree(asked, other)
        try:
            with full_disk(limit):
                run_requests(load_config(other))
        except FastUnlearnError as error:
            failed += 1
            assert "space" in str(error) or "could not be" in str(error) or "large" in str(error), str(error)
            assert set(statuses(other)) <= {"open", "running"} or statuses(other) == ["done", "done"]
            run_requests(load_config(other))
        assert statuses(other) == ["done", "done"] and weights(other) == weights(whole)
        assert verify(other / "evidence-0001", model=other / "after-0001").passed
        assert {p.name for p in other.iterdir()} == {p.name for p in whole.iterdir()}
    assert failed >= 4


def test_adding_on_a_full_disk(asked, capsys):
    with full_disk(1000):
        status = main(["requests", "add", "--id", "R-3", "--records", "part-0.jsonl"])
    assert status == 2 and "ledger" in capsys.readouterr().err
    assert statuses(asked) == ["open", "open"]
    add(asked, "R-3")


def test_a_read_only_folder(asked):
    """As a user who may not write there (root may write everywhere, so a child gives that up)."""
    base = Path(tempfile.mkdtemp())
    try:
        base.chmod(0o755)
        folder = base / "place"
        shutil.copytree(asked, folder)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        script = (
            "import os, sys\n"
            "from fastunlearn.cli.main import main\n"
            "import datasketch, torch\n"
            "from fastunlearn.production.config import load_config\n"
            "from fastunlearn.production.gather import gather\n"
            "from fastunlearn.production.job import job_of\n"
            "job_of(load_config(sys.argv[1]))\n"  # all that is imported late: others may not read this Python
            "torch.set_num_threads(1)\n"
            "os.chdir(sys.argv[1])\n"
            "if os.getuid() == 0:\n    os.setgid(65534); os.setuid(65534)\n"
            "print([main(line.split()) for line in sys.argv[2:]])\n"
        )
        lines = ["requests run --quiet", "unlearn --config . --quiet", "requests add --id R-9 --records part-0.jsonl"]
        done = subprocess.run(
            [sys.executable, "-c", script, str(folder), *lines], capture_output=True, text=True, timeout=240, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.stdout == "[2, 2, 2]\n", done.stdout + done.stderr
        errors = [line for line in done.stderr.splitlines() if line.startswith("fastunlearn: error: ")]
        assert len(errors) == 3 and all("ermission" in line or "readonly" in line for line in errors), errors
        assert {p.name for p in folder.iterdir()} == {p.name for p in asked.iterdir()}
        assert statuses(folder) == ["open", "open"]
    finally:
        for path in (base, *base.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
        shutil.rmtree(base)


def test_two_runs_at_once_on_one_ledger(asked, capsys):
    with exclusive(asked / ".requests.sqlite.lock", "the ledger"):
        assert main(["requests", "run", "--quiet"]) == 2
        assert f"in use by another run (process {os.getpid()})" in capsys.readouterr().err
        add(asked, "R-3")  # requests still come in
    assert statuses(asked) == ["open", "open", "open"]
    with exclusive(asked / ".state-0001.lock", "the run"), pytest.raises(OutputError, match="in use by another run"):
        run_requests(load_config(asked))
    assert statuses(asked) == ["open", "open", "open"]


def test_a_clock_set_back(asked, monkeypatch):
    times = [datetime.datetime(2026, 5, 20, 12, tzinfo=datetime.UTC) - datetime.timedelta(hours=n) for n in range(400)]
    earlier = iter(times)
    monkeypatch.setattr(ledger_module, "now", lambda: next(earlier).isoformat(timespec="seconds"))
    monkeypatch.setattr(log_module, "now", lambda: next(earlier).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    add(asked, "R-3")
    _, outcome, left = run_requests(load_config(asked))
    assert left == [] and statuses(asked) == ["done"] * 3
    assert verify(outcome.evidence, model=outcome.out).passed
    assert "clock_set_back_seconds" in (outcome.evidence / "log.jsonl").read_text()


@pytest.mark.slow
def test_a_record_with_html_and_control_characters(asked, capsys):
    write_records(asked / "part-0.jsonl", [HOSTILE])
    add(asked, "R-3")
    assert main(["requests", "run", "--quiet"]) == 0
    for line in (["list"], ["status", "R-3"]):
        assert main(["requests", *line]) == 0
    shown = "".join(capsys.readouterr())
    assert "pwned" not in shown and "\x1b" not in shown and statuses(asked) == ["done"] * 3
    held = [p for p in asked.rglob("*") if p.is_file() and p.name != "part-0.jsonl"]
    for path in held:
        data = path.read_bytes()
        assert b"pwned" not in data and b"<script>alert" not in data, path
    assert verify(asked / "evidence-0001", model=asked / "after-0001").passed
