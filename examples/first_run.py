"""From nothing to an evidence folder that a third party can verify, by the commands that a user types.

    python examples/first_run.py [FOLDER]

Makes FOLDER (default: first-run) with invented people, trains a small model on them, plans, pilots, takes in two
requests, runs them, and verifies the result as an auditor would, with both models and the records. Each command is
printed before it runs. It takes a minute or two on two cores; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import os
import shlex
import time
from pathlib import Path

from fastunlearn.cli.main import main as fastunlearn


def command(line: str, *, may_be: tuple[int, ...] = (0,)) -> int:
    """Runs one command, prints it and how long it took; its exit status. Ends the program where that is another one."""
    print(f"\n$ fastunlearn {line}", flush=True)
    began = time.perf_counter()
    status = fastunlearn([*shlex.split(line), "--quiet"])
    print(f"({time.perf_counter() - began:.1f} s)", flush=True)
    if status not in may_be:
        raise SystemExit(f"fastunlearn {line} ended with status {status}; what it says is above")
    return status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default="first-run")
    folder = Path(parser.parse_args().folder)
    began = time.perf_counter()
    command(f"new {shlex.quote(str(folder))}")
    os.chdir(folder)
    command("train --data training.jsonl --out original --steps 300 --hidden-size 48 --learning-rate 0.003")
    command("plan")
    go = command("pilot", may_be=(0, 1))
    print("The pilot says", "go." if go == 0 else "no go; the run goes on all the same, for the example.")

    # Two people ask; each has a file of their own.
    lines = Path("forget.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    half = len(lines) // 2
    for number, part in enumerate((lines[:half], lines[half:]), 1):
        Path(f"request-{number}.jsonl").write_text("".join(part), encoding="utf-8")
        command(f"requests add --id R-{number} --records request-{number}.jsonl")
    command("requests run")
    command("requests status R-1")

    # The auditor has the evidence folder and the public key, and is handed the models, the records and their salts.
    command(
        "verify evidence-0001 --public-key keys/public.pem --model after-0001 --before original --forget forget.jsonl "
        "--retain retain.jsonl --held-out held_out.jsonl --salts salts/evidence-0001.json --recompute"
    )
    print(f"\nFrom nothing to verified evidence in {time.perf_counter() - began:.0f} s: {Path.cwd() / 'evidence-0001'}")


if __name__ == "__main__":
    main()
