"""What `fastunlearn plan` says against what then happens: time, peak memory and disk, over six sizes.

    python -m bench.plan [--out bench/results/cpu-plan.json] [--only NAME ...]

Each size is a folder with a Llama of random weights and records about invented people. `fastunlearn plan` runs in a
process of its own, then `fastunlearn unlearn --config` in another, from the same folder; the target is out of reach, so
that all steps are taken, as the plan assumes. Time is the wall clock of the whole second process, memory its largest
resident set (both looked at every 20 ms), disk the largest size of what it added to the folder and the size at the end.
About five minutes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

from fastunlearn.data import generate_people, train_tokenizer
from fastunlearn.microbench.harness import write_json
from fastunlearn.storage import save_model
from fastunlearn.training import build_model

ROOT = Path(__file__).resolve().parents[1]
GOAL = 1.3
#: name: width, layers, heads, people, facts each, method, further settings
SIZES = {
    "small": (64, 2, 4, 60, 6, "fisher-removal", {"steps": 4}),
    "many records": (64, 2, 4, 400, 8, "fisher-removal", {"steps": 3}),
    "wide": (384, 3, 6, 60, 6, "fisher-removal", {"steps": 3}),
    "deep": (128, 10, 4, 100, 6, "fisher-removal", {"steps": 3}),
    "noise": (128, 4, 4, 150, 6, "fisher-forgetting", {"steps": 2, "noise": 1e-4}),
    "first order": (192, 4, 6, 150, 6, "bounded-difference", {"gradients": 4000, "check_every": 16}),
}
SECOND = {"kl_budget": "none"}


def _toml(value) -> str:
    return json.dumps(value)


def make_folder(folder: Path, size: tuple) -> None:
    """The folder of one size."""
    width, layers, heads, people, facts, method, more = size
    data = generate_people(people, facts, forget_people=max(2, people // 20), held_out_people=people // 5, canaries=0)
    for name in ("forget", "retain", "held_out"):
        rows = ({"prompt": one.prompt, "completion": one.completion} for one in getattr(data, name))
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = train_tokenizer(data.texts())
    model = build_model(tokenizer, hidden_size=width, layers=layers, heads=heads, context=32, seed=0)
    save_model(model, tokenizer, folder / "original")
    settings = {"target_accuracy": 0.0, "target_loss": 60.0, **more, **({} if "gradients" in more else SECOND)}
    lines = [
        '[model]\nfolder = "original"\n[data]\nforget = "forget.jsonl"\nretain = "retain.jsonl"',
        f'held_out = "held_out.jsonl"\n[method]\nname = "{method}"\n[method.settings]',
        *(f"{key} = {_toml(value)}" for key, value in settings.items()),
        f"[run]\nthreads = {torch.get_num_threads()}\n[plan]\ncalibration_seconds = 10.0",
    ]
    (folder / "fastunlearn.toml").write_text("\n".join(lines) + "\n")


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # removed while we looked
            continue
    return total


def _resident(process: int) -> int:
    """The largest resident set of a process since the mark was last set back, in bytes; 0 once it has ended."""
    try:
        text = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "fastunlearn.cli.main", *arguments, "--quiet"]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}


def planned(folder: Path) -> dict:
    """What the plan says, in a process of its own."""
    done = subprocess.run(
        _command(folder, "plan", "--json"), cwd=folder, env=_environment(), capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"plan failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def happened(folder: Path) -> dict:
    """Wall time, peak resident memory and added disk of the run."""
    before, most, peak, over = _size(folder), 0, 0, threading.Event()
    began = time.perf_counter()
    process = subprocess.Popen(
        _command(folder, "unlearn", "--config", "."), cwd=folder, env=_environment(), stdout=subprocess.DEVNULL
    )

    def watch() -> None:
        # the largest resident set is asked for again and again: the run itself sets the system's mark back
        nonlocal most, peak
        while not over.wait(0.02):
            most, peak = max(most, _size(folder) - before), max(peak, _resident(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = process.wait()
    seconds = time.perf_counter() - began
    over.set()
    watcher.join()
    if status:
        raise RuntimeError(f"the run failed with status {status}")
    account = json.loads((folder / "after" / "unlearning.json").read_text())
    log = [json.loads(line) for line in (folder / "evidence" / "log.jsonl").read_text().splitlines()]
    moments = [datetime.datetime.fromisoformat(entry["time"]) for entry in log]
    since = [(moment - moments[0]).total_seconds() for moment in moments]
    phases = [[entry["event"], second] for entry, second in zip(log, since, strict=True)]
    return {
        "seconds": seconds, "peak_bytes": peak, "disk_most": most, "disk_end": _size(folder) - before,
        "steps": account["steps"][-1]["step"], "method_seconds": account["seconds"],
        "phases": phases,
    }  # fmt: skip


def one_case(name: str) -> dict:
    """Plan and run of one size, with the ratios of plan to what happened."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_folder(folder, SIZES[name])
        plan = planned(folder)
        run = happened(folder)
    ratios = {
        "seconds": plan["seconds"]["total"] / run["seconds"], "peak_bytes": plan["peak_bytes"] / run["peak_bytes"],
        "disk_most": plan["disk_bytes"]["most"] / run["disk_most"],
        "disk_end": plan["disk_bytes"]["at the end"] / run["disk_end"],
    }  # fmt: skip
    within = all(1 / GOAL <= ratio <= GOAL for ratio in ratios.values())
    return {"case": name, "size": SIZES[name][:5], "plan": plan, "happened": run, "plan_over_happened": ratios,
            "within_goal": within}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "cpu-plan.json")
    parser.add_argument("--only", nargs="+", choices=SIZES)
    options = parser.parse_args()
    cases: list[dict] = []
    torch.set_num_threads(1)  # two threads on two cores measure whatever else runs there
    for name in options.only or SIZES:
        cases.append(one_case(name))
        ratios = ", ".join(f"{key} {value:.2f}" for key, value in cases[-1]["plan_over_happened"].items())
        print(f"{name}: {cases[-1]['happened']['seconds']:.1f} s; plan / happened: {ratios}", flush=True)
        write_json(options.out, "plan against what happened", {"goal": GOAL, "sizes": SIZES}, cases)


if __name__ == "__main__":
    main()
