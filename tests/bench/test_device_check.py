"""What is left of a check where kernels fail, or break the GPU, or end the process."""

from __future__ import annotations

import argparse
import json
import os

import pytest

from bench.device import check, record, rows
from bench.device.check_cases import CHECKS
from bench.device.record import GpuLostError, Record


def fails():
    raise RuntimeError("no tile fits\nmore of it")


def test_a_case_that_raises_is_a_failed_row(tmp_path):
    """Of any kind, and what it compared before stays; the cases after it run."""
    found = Record(writer=rows.Writer(tmp_path / "0.jsonl"))
    found.run("bad", lambda: (found.rows.append({"case": "bad, first", "passed": True}), fails()))
    found.run("good", lambda: found.rows.append({"case": "good", "passed": True}))
    assert rows.collected(tmp_path) == found.rows == [
        {"case": "bad, first", "passed": True},
        {"case": "bad", "passed": False, "failed": "RuntimeError: no tile fits"}, {"case": "good", "passed": True},
    ]  # fmt: skip


def test_a_lost_gpu_ends_the_process_with_its_row_written(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "gpu_is_lost", lambda: True)
    found = Record(writer=rows.Writer(tmp_path / "0.jsonl"), gpu=True)
    with pytest.raises(GpuLostError):
        found.run("bad", fails)
    assert rows.done(tmp_path) == {0} and not rows.collected(tmp_path)[0]["passed"]


def test_the_next_process_goes_on_after_the_case_that_killed_the_last(tmp_path):
    path = tmp_path / "1.jsonl"
    writer = rows.Writer(path)
    writer.ended(0, [{"case": "a", "passed": True}])
    writer.started(1, "b")
    path.write_text(path.read_text() + '{"ended": 2, "ro')  # killed in the middle of a line
    rows.fail_started(path, "its process ended with -11")
    assert rows.collected(tmp_path)[1] == {"case": "b", "passed": False, "failed": "its process ended with -11"}
    ran = []
    again = Record(done=rows.done(tmp_path))
    for number in range(3):
        again.run(str(number), lambda number=number: ran.append(number))
    assert ran == [2]


#: Stands for the process of a share: case 0 is good, case 1 ends the process, case 2 comes after.
SHARE = """
import os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from bench.device import rows
folder = Path(sys.argv[1])
writer, done = rows.Writer(folder / "0.jsonl"), rows.done(folder)
for number in range(3):
    if number not in done:
        writer.started(number, str(number))
        if number == 1:
            {ending}
        writer.ended(number, [{{"case": str(number), "passed": True}}])
"""


def shared_out(tmp_path, monkeypatch, ending: str, seconds: float) -> tuple[bool, list[dict]]:
    script = tmp_path / "share.py"
    script.write_text(SHARE.format(root=os.getcwd(), ending=ending))
    folder = tmp_path / "check"
    folder.mkdir()
    start = check.subprocess.Popen
    monkeypatch.setattr(check.subprocess, "Popen", lambda command, **how: start(
        [command[0], str(script), str(folder)], **how))  # fmt: skip
    options = argparse.Namespace(processes=1, device="cpu", toy=True, out=tmp_path, seconds=seconds)
    whole = check.check_in_processes(options, folder)
    assert check.report(options, folder, whole) == (check.FAILED if whole else check.CUT)
    return whole, json.loads((tmp_path / "check.json").read_text())["cases"]


def test_a_process_that_dies_is_started_again(tmp_path, monkeypatch):
    whole, found = shared_out(tmp_path, monkeypatch, "os.kill(os.getpid(), 11)", 60)
    assert whole and [row["passed"] for row in found] == [True, False, True]


def test_a_process_that_hangs_leaves_its_rows(tmp_path, monkeypatch):
    whole, found = shared_out(tmp_path, monkeypatch, "import time; time.sleep(600)", 8)
    assert not whole and found == [{"case": "0", "passed": True}]


def test_attention_comes_last():
    assert CHECKS[-1].__name__ == "check_attention" and CHECKS[0].__name__ == "check_sample_space"
