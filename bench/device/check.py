"""Every GPU kernel in every dtype against float64: what ``bench/device.sh check`` runs. Needs no test packages.

    python -m bench.device.check --out FOLDER                  on a GPU: backends triton and cuda
    python -m bench.device.check --out FOLDER --device cpu     a dry run of this script on the reference

Writes check.json: one row per case and result, with its error relative to the largest element of the truth, and the
limit. A case that raises is a failed row, and the cases after it run all the same, where it broke the GPU for its
process in a new one. Rows are written as they come; ``--go-on`` keeps those of an earlier call and does the rest.
Exit status: 0; FAILED (status.py); CUT where some cases did not run. Where the comparison itself does not see a wrong
result, nothing runs.

Most of the time goes into compiling kernels: ``--processes 12`` shares the cases out (0: one in this process). Nothing
is timed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from bench.device import rows
from bench.device.check_cases import backends, check_all
from bench.device.record import GpuLostError, Record, relative
from bench.device.status import CUT, FAILED
from fastunlearn.microbench.harness import write_json

RESTARTS = 3  # of each process whose GPU was lost, or that died


def check_share(options: argparse.Namespace, folder: Path) -> int:
    """In this process the cases that are its own and not done yet; their rows go to ``folder``."""
    number, of = options.share
    record = Record((number, of), rows.Writer(folder / f"{number}.jsonl"), rows.done(folder), options.device == "cuda")
    try:
        check_all(record, options.device, options.toy)
    except GpuLostError:
        return CUT
    return 0


def check_in_processes(options: argparse.Namespace, folder: Path) -> bool:
    """The same in several processes, until ``options.seconds`` are over. Whether all cases ran."""

    def start(number: int) -> subprocess.Popen:
        command = [sys.executable, "-m", "bench.device.check", "--device", options.device, "--out", str(options.out),
                   "--share", str(number), str(options.processes), *(["--toy"] if options.toy else [])]  # fmt: skip
        with open(folder / f"{number}.log", "ab") as log:  # not a pipe: one that nobody reads fills up
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    until = time.monotonic() + options.seconds
    running = {number: start(number) for number in range(options.processes)}
    left, whole = dict.fromkeys(running, RESTARTS), True
    while running and time.monotonic() < until:
        time.sleep(0.1)
        for number, process in list(running.items()):
            status = process.poll()
            if status is None:
                continue
            del running[number]
            if status == 0:
                continue
            if status != CUT:  # killed, or by an error outside of the cases: the case that it was in has no row yet
                print(f"process {number} ended with {status}:", _tail(folder / f"{number}.log"), flush=True)
                rows.fail_started(folder / f"{number}.jsonl", f"its process ended with {status}")
            if left[number]:
                left[number] -= 1
                running[number] = start(number)
            else:
                whole = False
    for process in running.values():
        process.kill()
        process.wait()
    return whole and not running


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-2000:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--toy", action="store_true", help="tiny shapes")
    parser.add_argument("--processes", type=int, default=0, help="share the cases out to so many")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop these processes after so many")
    parser.add_argument("--go-on", action="store_true", help="keep the rows of an earlier call")
    parser.add_argument("--share", type=int, nargs=2, help="only every n-th case, from the i-th on, and no check.json")
    parser.add_argument("--out", type=Path, required=True, help="folder of check.json")
    options = parser.parse_args()
    os.environ.setdefault("FASTUNLEARN_TUNE", "0")
    truth = torch.ones(3, dtype=torch.float64)
    if any(relative(torch.tensor([1.0, wrong, 1.0]), truth) < 0.09 for wrong in (float("nan"), 1.1)):
        raise SystemExit("the comparison does not see a wrong result")
    folder = options.out / "check"
    if options.share:
        raise SystemExit(check_share(options, folder))
    if not options.go_on:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    if options.processes:
        whole = check_in_processes(options, folder)
    else:
        options.share = (0, 1)
        whole = check_share(options, folder) == 0
    raise SystemExit(report(options, folder, whole))


def report(options: argparse.Namespace, folder: Path, whole: bool) -> int:
    """Writes check.json; the exit status."""
    found = rows.collected(folder)
    failures = [row for row in found if not row["passed"]]
    settings = {"whole": whole, "device": options.device, "backends": backends(options.device), "toy": options.toy}
    write_json(options.out / "check.json", "kernels against float64", settings, found, options.device)
    for row in failures:
        print("FAILED", row)
    print(f"{len(found)} results, {len(failures)} failed{'' if whole else '; cut short, some cases did not run'}")
    if not whole:
        return CUT
    if failures:
        return FAILED
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    main()
