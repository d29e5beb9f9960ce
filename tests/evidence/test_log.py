"""The chained log: what it keeps, what it notices, and that a kill never loses a whole entry."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import subprocess
import sys
import time

import pytest

from fastunlearn.errors import InvalidInputError, OutputError
from fastunlearn.evidence import EvidenceLog
from fastunlearn.evidence import log as log_module
from fastunlearn.evidence.log import check_lines


@pytest.fixture
def path(tmp_path):
    with EvidenceLog(tmp_path / "log.jsonl", run="run-1") as log:
        for step in range(4):
            log.append("step", step=step, norm=0.1 * step)
    return tmp_path / "log.jsonl"


def wrong(data: bytes) -> list[str]:
    return check_lines(data)[1]


def test_entries_are_chained_and_read_back(path):
    entries, found, torn = check_lines(path.read_bytes())
    assert found == [] and torn == 0
    assert [entry["number"] for entry in entries] == [0, 1, 2, 3, 4]
    assert entries[0]["facts"]["run"] == "run-1" and entries[3]["facts"] == {"step": 2, "norm": 0.2}
    assert all(after["previous"] == before["hash"] for before, after in itertools.pairwise(entries))
    with EvidenceLog(path) as log:
        assert log.entries() == entries and log.run == "run-1" and log.head == entries[-1]["hash"]


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_a_torn_last_line_is_dropped_and_noted(path, cut):
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with EvidenceLog(path) as log:
        last = log.append("more")
    entries, found, torn = check_lines(path.read_bytes())
    assert found == [] and torn == 0 and last["number"] == 5
    assert [entry["event"] for entry in entries[-3:]] == ["step", "recovered", "more"]
    assert entries[-2]["facts"]["dropped_bytes"] == len(whole.splitlines(True)[-1]) - cut


def test_every_cut_leaves_a_log_that_goes_on(path, tmp_path):
    """As a kill in the middle of any write would."""
    whole = path.read_bytes()
    lines = whole.count(b"\n")
    for cut in range(0, len(whole), 7):
        other = tmp_path / "cut.jsonl"
        other.write_bytes(whole[:cut])
        with EvidenceLog(other, run="run-1") as log:
            kept = [entry for entry in log.entries() if entry["event"] == "step"]
        assert wrong(other.read_bytes()) == []
        assert len(kept) == max(0, whole[:cut].count(b"\n") - 1) <= lines
        other.unlink()


def test_a_removed_entry_is_told(path):
    lines = path.read_bytes().splitlines(True)
    assert "1 entries were removed between entry 1 and entry 3" in wrong(b"".join(lines[:2] + lines[3:]))[0]
    assert "removed between the beginning and entry 1" in wrong(b"".join(lines[1:]))[0]


def test_moved_and_repeated_entries_are_told(path):
    lines = path.read_bytes().splitlines(True)
    assert wrong(b"".join([lines[0], lines[2], lines[1], *lines[3:]]))
    assert "put in a second time" in wrong(b"".join([*lines, lines[-1]]))[0]


def test_a_changed_value_is_told(path):
    data = path.read_bytes().replace(b'"step":2', b'"step":7')
    assert "entry 3 (step): its content was changed" in wrong(data)[0]


def test_a_changed_entry_with_its_hash_made_anew_breaks_the_chain(path):
    lines = path.read_bytes().splitlines()
    entry = json.loads(lines[2])
    entry["facts"]["norm"] = 9.0
    entry["hash"] = log_module._hash(entry)
    lines[2] = log_module.canonical(entry)
    assert "entry 3 does not follow entry 2" in wrong(b"\n".join(lines) + b"\n")[0]


def test_another_spelling_of_the_same_entry_is_told(path):
    assert "canonical" in wrong(path.read_bytes().replace(b'"step":2', b'"step": 2'))[0]


def test_a_damaged_log_is_refused_and_left_alone(path):
    data = path.read_bytes().replace(b'"step":2', b'"step":7')
    path.write_bytes(data)
    with pytest.raises(InvalidInputError, match="entry 3"):
        EvidenceLog(path)
    assert path.read_bytes() == data


def test_the_log_of_another_run_is_refused(path):
    with pytest.raises(InvalidInputError, match="run-1"):
        EvidenceLog(path, run="run-2")


def test_a_clock_set_back_is_noted_and_no_error(path, monkeypatch):
    monkeypatch.setattr(log_module, "now", lambda: "2001-01-01T00:00:00.000000Z")
    with EvidenceLog(path) as log:
        first, second = log.append("step", step=9), log.append("step", step=10)
    assert first["facts"]["clock_set_back_seconds"] > 1e8 and "clock_set_back_seconds" not in second["facts"]
    assert wrong(path.read_bytes()) == []


def test_a_time_that_goes_back_without_a_word_is_told(path):
    lines = path.read_bytes().splitlines()
    entry = json.loads(lines[-1])
    entry["time"] = "2001-01-01T00:00:00.000000Z"
    entry["hash"] = log_module._hash(entry)
    lines[-1] = log_module.canonical(entry)
    assert "lies before" in wrong(b"\n".join(lines) + b"\n")[0]


def test_two_writers_at_once_are_refused(path):
    pytest.importorskip("fcntl")
    with EvidenceLog(path), pytest.raises(OutputError, match="in use"):
        EvidenceLog(path)
    EvidenceLog(path).close()


def test_a_full_disk_leaves_the_log_as_it_was(path, monkeypatch):
    before = path.read_bytes()
    with EvidenceLog(path) as log:
        def full(_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(log_module.os, "fsync", full)
        with pytest.raises(OutputError, match="No space"):
            log.append("step", step=5)
        monkeypatch.undo()
        assert path.read_bytes() == before
        log.append("step", step=6)
    assert wrong(path.read_bytes()) == [] and b'"step":6' in path.read_bytes()


def test_facts_that_json_cannot_hold_are_refused(path):
    before = path.read_bytes()
    with EvidenceLog(path) as log:
        for value in (float("nan"), object(), {1, 2}):
            with pytest.raises(InvalidInputError, match="JSON"):
                log.append("step", value=value)
    assert path.read_bytes() == before


def test_control_characters_stay_on_one_line_and_are_escaped(path):
    with EvidenceLog(path) as log:
        log.append("note", text="a\nb\x1b[2J\u202e<script>")
    data = path.read_bytes()
    assert data.count(b"\n") == 6 and b"\x1b" not in data and data.isascii() and wrong(data) == []


def test_a_link_in_the_place_of_the_log_is_refused(path, tmp_path):
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OutputError):
        EvidenceLog(tmp_path / "link")


def test_kills_at_any_moment_lose_no_entry_that_was_reported(tmp_path):
    """A writer that tells each entry after it is on the disk, killed 6 times at random moments."""
    path = tmp_path / "log.jsonl"
    script = (
        "import sys\n"
        "from fastunlearn.evidence.log import EvidenceLog\n"
        "log = EvidenceLog(sys.argv[1], run='run-1')\n"
        "while True:\n"
        "    print(log.append('step', text='x' * 3000)['number'], flush=True)\n"
    )
    draw, told = random.Random(3), 0
    for _ in range(6):
        writer = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
        told = max(told, int(writer.stdout.readline()))
        time.sleep(draw.uniform(0, 0.05))
        writer.kill()
        numbers = writer.communicate()[0].split("\n")
        told = max([told, *(int(number) for number in numbers[:-1])])
        assert wrong(path.read_bytes()) == []
    with EvidenceLog(path) as log:
        assert len(log) > told
