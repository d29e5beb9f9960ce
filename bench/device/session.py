"""Runs the steps of a part, each in a process of its own and not beyond its limit, and goes on after one that failed:
what bench/device.sh is. Everything is written to a folder of work; what is there is packed into results.tgz in the
folder of the results again and again, so that a call that is killed leaves what it had.

A part of many steps that is called again goes on: steps that came to their end are left out, those that were cut short
come after those that did not have their turn (steps.json says which these are).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.device.build import is_built
from bench.device.parts import BUILD, LEFT, PARTS, SECONDS, Step, filled
from bench.device.status import CUT, FAILED

ROOT = Path(__file__).resolve().parents[2]
WORK, PEERS = ROOT / "runs" / "work", ROOT / "runs" / "peers"
LOOSE = 6  # <gpu>-<subject>.json beside results.tgz: of some machines no more than eight files come back
ORDERLY = 15  # seconds before its limit by which a step that can should end by itself
LEAST = 20  # seconds without which no step is begun
OUT_OF_TIME, NOT_FOUND = 124, 127  # as of a shell's
EVERY = 30.0  # seconds between two packings while a step runs


def pack(work: Path, folder: Path) -> None:
    """``work`` as results.tgz, and some results beside it: those that are there already, and new ones up to LOOSE."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / ".results.tgz"
    with tarfile.open(unfinished, "w:gz") as archive:
        for path in sorted(p for p in work.rglob("*") if p.is_file()):
            with contextlib.suppress(FileNotFoundError):  # renamed meanwhile, by the step that runs
                archive.add(path, Path("results") / path.relative_to(work))
    os.replace(unfinished, folder / "results.tgz")
    there = {path.name for path in folder.glob("*-*.json")}
    for path in sorted(work.glob("*-*.json"), key=lambda p: p.stat().st_mtime):
        if path.name in there or len(there) < LOOSE:
            there.add(path.name)
            shutil.copyfile(path, folder / path.name)


def run_step(step: Step, seconds: float, work: Path, pause: Callable[[], None]) -> int:
    """The exit status of a step, its words in <step>.log; ``pause`` is called now and then while it runs."""
    command = [str(max(1, int(seconds - ORDERLY))) if word == LEFT else word for word in step.command]
    until = time.monotonic() + seconds
    with open(work / f"{step.name}.log", "ab") as log:
        try:
            process = subprocess.Popen(command, cwd=ROOT, env=environment(step), stdout=log, stderr=subprocess.STDOUT,
                                       start_new_session=True)  # fmt: skip
        except OSError as failure:
            log.write(f"{failure}\n".encode())
            return NOT_FOUND
        try:
            while time.monotonic() < until:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(min(EVERY, max(0.0, until - time.monotonic())))
                pause()
            return OUT_OF_TIME
        finally:
            with contextlib.suppress(ProcessLookupError):  # it and all that it started
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def environment(step: Step) -> dict[str, str]:
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")]), *([str(PEERS)] if PEERS.exists() else [])]
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(path), **step.environment}


def in_order(todo: list[Step], state: dict[str, dict], go_on: bool) -> list[Step]:
    """Those that did not have their turn, then those that were cut short."""
    if not go_on:
        return todo
    left = [step for step in todo if state.get(step.name, {}).get("status") not in (0, FAILED)]
    return sorted(left, key=lambda step: step.name in state)


def run(
    todo: list[Step], seconds: float, work: Path, folder: Path, go_on: bool = False, first: Sequence[Step] = ()
) -> int:
    """All of ``todo`` within ``seconds``, or with ``go_on`` what is left of it, after the steps ``first``; the exit
    status."""
    until = time.monotonic() + seconds
    work.mkdir(parents=True, exist_ok=True)
    path = work / "steps.json"
    state = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    worst = 0
    try:
        for step in (*first, *in_order(todo, state, go_on)):
            start = time.monotonic()
            if until - start < LEAST:
                print(f"{step.name}: no time is left for it", flush=True)
                worst = worst or CUT
                continue
            (work / f"{step.name}.log").unlink(missing_ok=True)
            status = run_step(step, min(step.seconds, until - start), work, lambda: pack(work, folder))
            spent = round(time.monotonic() - start, 1)
            state[step.name] = {"status": status, "seconds": spent}
            unfinished = path.with_suffix(".tmp")
            unfinished.write_text(json.dumps(state, indent=1), encoding="utf-8")
            os.replace(unfinished, path)
            print(f"== {step.name}: status {status}, {spent} s\n{tail(work / f'{step.name}.log')}", flush=True)
            worst = worst or status
            pack(work, folder)
    finally:  # also of a call that is asked to end
        pack(work, folder)
    return 1 if worst else 0


def tail(log: Path, characters: int = 600) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-characters:].rstrip()


def stop(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def before(part: str, dry: bool) -> tuple[Step, ...]:
    """The peers of the folder WHEELS, and the build where the extension is missing or of an older source."""
    found = ()
    if os.environ.get("WHEELS"):
        wheels = sorted(map(str, Path(os.environ["WHEELS"]).glob("*.whl")))
        command = (sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--upgrade",
                   "--target", str(PEERS), *wheels)  # fmt: skip
        found = (Step("peers", 60, command),)
    return found if dry or part == "build" or is_built() else (*found, BUILD)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench/device.sh", description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(os.environ.get("OUT") or ROOT / "runs" / "device"))
    parser.add_argument("--seconds", type=float, help="of the whole call")
    parser.add_argument("--work", type=Path, default=WORK, help="folder in which a next call finds what this one did")
    parser.add_argument("--dry", action="store_true", help="on the CPU, on tiny shapes: a test of these scripts")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    work, folder = options.work.resolve(), options.folder.resolve()
    first = filled(before(options.part, options.dry), work, options.dry)
    todo = filled(PARTS[options.part], work, options.dry)
    seconds = options.seconds or SECONDS[options.part]
    raise SystemExit(run(todo, seconds, work, folder, options.part == "first", first))


if __name__ == "__main__":
    main()
