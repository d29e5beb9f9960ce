"""Runs requests again and again in processes that are killed at random moments; writes what came of it, as JSON.

    python -m tests.production.killing FOLDER TRIALS SEED OUT

FOLDER is copied for every trial. The packages are imported once; each trial is a fork of this process.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

from fastunlearn.data.loading import load_records
from fastunlearn.errors import InvalidInputError
from fastunlearn.evidence import verify
from fastunlearn.production.config import load_config
from fastunlearn.production.gather import run_requests
from fastunlearn.production.ledger import Ledger

REQUESTS = ("R-1", "R-2")


def _prepare(start: Path, folder: Path) -> None:
    shutil.copytree(start, folder)
    records = load_records(folder / "forget.jsonl")
    with Ledger(folder / "requests.sqlite", make=True) as ledger:
        for number, name in enumerate(REQUESTS):
            ledger.add(name, records[number :: len(REQUESTS)])


def _child(folder: Path) -> int:
    """Runs the requests of ``folder`` in a fork; its process."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        status = int(run_requests(load_config(folder))[2] != [])
    except InvalidInputError as error:  # killed when all was done: what it left is tidied up
        status = int("no request is open" not in str(error))
    except BaseException as error:
        print(repr(error), file=sys.stderr)
    finally:
        os._exit(status)


def _state(folder: Path) -> dict:
    """What is there after a trial."""
    weights = hashlib.sha256((folder / "after-0001" / "model.safetensors").read_bytes()).hexdigest()
    with Ledger(folder / "requests.sqlite") as ledger:
        requests = [[one.id, one.status, one.evidence, len(ledger.texts(one))] for one in ledger.requests()]
    found = verify(folder / "evidence-0001", model=folder / "after-0001", before=folder / "original")
    wrong = [str(check) for check in found.failures]
    return {"weights": weights, "requests": requests, "wrong": wrong, "left": sorted(p.name for p in folder.iterdir())}


def _killed(folder: Path, moment: float) -> bool:
    """Starts a run and kills it after so many seconds; whether it was still running."""
    process = _child(folder)
    time.sleep(moment)
    os.kill(process, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def main() -> None:
    start, trials, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    stream = random.Random(seed)
    for name in ("warm", "whole"):
        _prepare(start, start.parent / name)
    run_requests(load_config(start.parent / "warm"))  # here, so that all that is imported late is there in the forks
    began = time.perf_counter()
    _, status = os.waitpid(_child(start.parent / "whole"), 0)
    took = time.perf_counter() - began
    found = {"whole": _state(start.parent / "whole"), "status": status, "seconds": took, "trials": []}
    for number in range(trials):
        folder, kills, reach = start.parent / f"trial-{number}", 0, 1.0
        while not kills:  # a run that was done before it was hit is no trial
            shutil.rmtree(folder, ignore_errors=True)
            _prepare(start, folder)
            kills = sum(_killed(folder, reach * took * stream.uniform(0.02, 1.0)) for _ in range(1 + number % 2))
            reach *= 0.7
        _, status = os.waitpid(_child(folder), 0)
        found["trials"].append({"kills": kills, "status": status, **_state(folder)})
        shutil.rmtree(folder)
    Path(sys.argv[4]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
