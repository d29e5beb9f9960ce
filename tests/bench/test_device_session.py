"""bench/device.sh: steps that fail or hang, calls that end too early, and what comes back of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from bench.device import build, gpu_tests, parts, session
from bench.device.parts import PARTS, SECONDS, Step, filled
from bench.device.status import CUT, FAILED

ROOT = Path(__file__).resolve().parents[2]
MOST = 8  # files that come back of some machines


def step(name: str, code: str, seconds: int = 60) -> Step:
    return Step(name, seconds, (sys.executable, "-S", "-c", code))


def packed(folder: Path) -> dict[str, str]:
    with tarfile.open(folder / "results.tgz") as archive:
        return {name.removeprefix("results/"): archive.extractfile(name).read().decode() for name in archive.getnames()}


@pytest.fixture
def places(tmp_path):
    return tmp_path / "work", tmp_path / "out"


def writing(work: Path, name: str, then: str = "") -> str:
    return f"open({str(work / name)!r}, 'w').write('{{}}')\n{then}"


def test_steps_after_one_that_fails_run_and_the_status_says_it(places):
    work, out = places
    todo = [step("bad", "print('why'); raise SystemExit(7)"), Step("none", 5, ("/there/is/no/such/tool",)),
            step("good", writing(work, "h200-good.json"))]  # fmt: skip
    assert session.run(todo, 100, work, out) == 1
    found = packed(out)
    statuses = {name: one["status"] for name, one in json.loads(found["steps.json"]).items()}
    assert statuses == {"bad": 7, "none": session.NOT_FOUND, "good": 0}
    assert found["bad.log"] == "why\n" and (out / "h200-good.json").exists()
    assert session.run(todo[2:], 100, work, out) == 0


def test_a_step_that_hangs_is_ended_with_what_it_started(places, monkeypatch):
    work, out = places
    monkeypatch.setattr(session, "EVERY", 0.5)
    late = f"import time; time.sleep(3); open({str(work / 'late')!r}, 'w')"
    child = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {late!r}])\ntime.sleep(600)"
    todo = [step("hangs", writing(work, "h200-part.json", child), 2), step("next", writing(work, "h200-next.json"))]
    start = time.monotonic()
    assert session.run(todo, 100, work, out) == 1 and time.monotonic() - start < 30
    assert {"h200-part.json", "h200-next.json"} <= set(packed(out))
    assert json.loads((work / "steps.json").read_text())["hangs"]["status"] == session.OUT_OF_TIME
    time.sleep(3)
    assert not (work / "late").exists()


def test_no_more_than_eight_files_come_back(places):
    work, out = places
    todo = [step(f"s{n}", writing(work, f"h200-{n}.json")) for n in range(12)]
    for first in (todo[:8], todo[8:]):
        assert session.run(first, 100, work, out) == 0
        assert len(list(out.iterdir())) <= MOST
    assert {f"h200-{n}.json" for n in range(12)} <= set(packed(out))
    assert (out / "h200-0.json").exists() and not (out / "h200-11.json").exists()


def test_a_second_call_goes_on(places):
    """Without what came to its end, failures in it or not, and with what was cut short at the end."""
    work, out = places
    log = work / "ran"
    steps = [step(name, f"open({str(log)!r}, 'a').write({name!r}); raise SystemExit({status})")
             for name, status in (("a", 0), ("b", CUT), ("c", FAILED), ("d", 1), ("e", 0))]  # fmt: skip
    assert session.run(steps[:4], 100, work, out, go_on=True) == 1
    assert session.run(steps, 100, work, out, go_on=True, first=[steps[0]]) == 1
    assert log.read_text() == "abcd" + "aebd"
    assert session.run(steps[:1], 100, work, out) == 0 and log.read_text().endswith("da"), "asked for by name"


def test_a_step_that_had_no_time_is_left_for_the_next_call(places, monkeypatch):
    work, out = places
    monkeypatch.setattr(session, "LEAST", 50)
    assert session.run([step("a", "")], 40, work, out, go_on=True) == 1
    assert json.loads(packed(out).get("steps.json", "{}")) == {}
    assert session.run([step("a", "")], 100, work, out, go_on=True) == 0


def test_a_step_learns_how_long_it_has(places):
    work, out = places
    todo = [Step("a", 50, (sys.executable, "-c", "import sys; print(sys.argv[1])", parts.LEFT))]
    assert session.run(todo, 30, work, out) == 0
    assert 30 - session.ORDERLY - 3 < int(packed(out)["a.log"]) <= 30 - session.ORDERLY


def test_a_call_that_is_ended_packs_what_there_is(places):
    work, out = places
    code = f"""
import signal, sys
from pathlib import Path
from bench.device import session
from tests.bench.test_device_session import step, writing
signal.signal(signal.SIGTERM, session.stop)
work = Path({str(work)!r})
session.run([step("a", writing(work, "h200-a.json", "import time; time.sleep(600)"))], 500, work, Path({str(out)!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    until = time.monotonic() + 100
    while not (work / "h200-a.json").exists() and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM and "h200-a.json" in packed(out)


def test_limits():
    """A part ends within a call, and gives each of its steps its time (``first`` has a second call)."""
    for part, steps in PARTS.items():
        assert SECONDS[part] <= (570 if part == "first" else 480)
        assert part == "first" or sum(one.seconds for one in steps) <= SECONDS[part], part
    names = [one.name for one in PARTS["first"]]
    assert names[:4] == ["check", "hvp", "attention", "hvp-large"] and len(set(names)) == len(names)
    assert {one.name for steps in PARTS.values() for one in steps} == {*names, "build"}


def test_what_runs_in_many_processes_has_few_threads():
    steps = {one.name: one for one in PARTS["first"]}
    assert steps["check"].environment == {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "2"}
    assert steps["tests"].environment == {"OMP_NUM_THREADS": "1"}


def test_sanitizers_see_every_access():
    """No cache of memory around tensors, no error of a refused request, no kernel left out."""
    for one in PARTS["sanitize"]:
        assert one.environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] == "1"
        assert "--report-api-errors no" in " ".join(one.command) and "kernel" not in " ".join(one.command)


def test_only_this_gpu_is_built_for():
    assert build.switches((9, 0), False) == {
        "FASTUNLEARN_CUDA": "1", "FASTUNLEARN_CPU": "0", "FASTUNLEARN_CUDA_ARCHS": "90a"}  # fmt: skip
    assert build.switches((8, 0), True)["FASTUNLEARN_CPU"] == "1"
    assert build.switches((8, 0), True)["FASTUNLEARN_CUDA_ARCHS"] == "80"


def test_a_build_of_another_source_is_none(tmp_path, monkeypatch):
    (tmp_path / "csrc" / "cuda").mkdir(parents=True)
    (tmp_path / "fastunlearn").mkdir()
    (tmp_path / "fastunlearn" / f"_cuda{build.importlib.machinery.EXTENSION_SUFFIXES[0]}").touch()
    kernel = tmp_path / "csrc" / "cuda" / "a.cu"
    for path in (tmp_path / "setup.py", kernel):
        path.write_text("1")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "STAMP", tmp_path / "built.txt")
    assert not build.is_built()
    build.STAMP.write_text(build.source())
    assert build.is_built()
    kernel.write_text("2")
    assert not build.is_built()


def test_tests_that_failed_are_counted(tmp_path, monkeypatch):
    report = ('<testsuites><testsuite tests="5" failures="1" errors="0" skipped="2"><testcase/></testsuite>'
              "</testsuites>")  # fmt: skip

    def run(command, cwd):
        assert command[command.index("-m", 4) + 1] == "gpu"
        (tmp_path / "tests.xml").write_text(report)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(gpu_tests.subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["gpu_tests", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        gpu_tests.main()
    assert stop.value.code == FAILED
    assert json.loads((tmp_path / "tests.json").read_text()) == {
        "tests": 5, "failures": 1, "errors": 0, "skipped": 2, "on_gpu": 3}  # fmt: skip


def test_the_script_names_the_parts_and_has_no_default():
    script = str(ROOT / "bench" / "device.sh")
    done = subprocess.run(["sh", script], capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable})
    assert done.returncode == 2 and "usage: bench/device.sh" in done.stderr
    text = Path(script).read_text(encoding="utf-8")
    assert "|".join(PARTS) in text and "|".join(PARTS) in (ROOT / "docs" / "bench.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_dry_run_of_a_whole_part(tmp_path):
    command = ["sh", str(ROOT / "bench" / "device.sh"), "time", str(tmp_path / "out"), "--dry", "--work",
               str(tmp_path / "work"), "--seconds", "900"]  # fmt: skip
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "WHEELS": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    subjects = [one.name for one in filled(PARTS["time"], tmp_path, True)]
    assert len(subjects) == 7 and {f"dry-{name}.json" for name in subjects} <= set(packed(tmp_path / "out"))
    assert len(list((tmp_path / "out").iterdir())) <= MOST
