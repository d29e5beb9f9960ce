"""The command line on real text: TOFU's questions about invented authors, learnt, forgotten, measured.

    FASTUNLEARN_DATA=FOLDER python -m bench.tofu        (or: python -m bench.tofu FOLDER)

FOLDER holds tofu_forget.jsonl, tofu_retain.jsonl and, as utility, tofu_real_authors_perturbed.json and
tofu_world_facts_perturbed.json (Maini et al. 2024, arXiv 2401.06121). Nothing of it is copied into the project.
Every step is a `fastunlearn` command, printed as it runs: a BPE tokenizer and a small model are trained on all of
it, another model without the forget records, several methods unlearn, and two reports compare them. The last three
authors of the retain file are kept out of training: they are the held-out records. Writes reports and models into
--work and figures, without any text of a record, into bench/results/tofu.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from bench.demo_seeds import shortened
from fastunlearn.data import load_records
from fastunlearn.errors import InvalidInputError
from fastunlearn.microbench.harness import write_json

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "bench" / "results" / "tofu.json"
UTILITY = ("tofu_real_authors_perturbed.json", "tofu_world_facts_perturbed.json")
HELD_OUT = 60  # three authors of twenty questions each
MODEL = {
    "tokenizer": "bpe", "vocab-size": 4000, "hidden-size": 128, "layers": 3, "heads": 4, "context": 160,
    "steps": 1600, "batch-size": 16, "learning-rate": 2e-3,
}  # fmt: skip
#: The same settings as in the demonstration, untuned here; first-order methods get Fisher Removal's gradients.
FIRST_ORDER = {
    "gradient-difference": {"learning_rate": 3e-4, "retain_weight": 2.0, "stop": "budget", "check_every": 8},
    "npo-retain": {"learning_rate": 2e-4, "beta": 0.5, "stop": "budget", "check_every": 8},
}


def options(values: dict) -> list[str]:
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


def write_split(data: Path, work: Path) -> dict[str, Path]:
    """The files of the run, as JSONL of prompts and completions. Raises InvalidInputError for a missing file."""
    retain = load_records(data / "tofu_retain.jsonl")
    utility = [record for name in UTILITY for record in load_records(data / name)]
    sets = {
        "forget": load_records(data / "tofu_forget.jsonl"),
        "retain": retain[:-HELD_OUT],
        "kept": retain[:-HELD_OUT] + utility,  # what unlearning may look at: all else that was learnt
        "utility": utility,
        "held_out": retain[-HELD_OUT:],
    }
    paths = {}
    for name, records in sets.items():
        paths[name] = work / f"{name}.jsonl"
        rows = ({"prompt": record.prompt, "completion": record.completion} for record in records)
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return paths


class Commands:
    """Runs fastunlearn commands and writes down each with its time."""

    def __init__(self, work: Path):
        self._work, self.log = work, []

    def __call__(self, *arguments: str | Path) -> float:
        line = [str(part) for part in arguments]
        told = ["fastunlearn", *(part.replace(f"{self._work}{os.sep}", "") for part in line)]
        print("$", shlex.join(told), flush=True)
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "fastunlearn.cli.main", *line], check=True)
        self.log.append({"command": shlex.join(told), "seconds": time.perf_counter() - started})
        return self.log[-1]["seconds"]


def run(data: Path, work: Path) -> dict:
    """All of it; the case for the result file."""
    work.mkdir(parents=True, exist_ok=True)
    files, command = write_split(data, work), Commands(work)
    models = {name: work / name for name in ("original", "retrained", "fisher-removal", *FIRST_ORDER)}
    again = ["--overwrite"]
    train = ["train", *options(MODEL), *again]
    command(*train, "--data", files["forget"], files["kept"], "--out", models["original"])
    # The same tokenizer: its texts are those of the original's training, for the tokens must be the same.
    command(*train, "--data", files["kept"], "--tokenizer-from", models["original"], "--out", models["retrained"])
    unlearn = ["unlearn", "--model", models["original"], "--forget", files["forget"], "--retain", files["kept"],
               "--held-out", files["held_out"], *again]  # fmt: skip
    command(*unlearn, "--out", models["fisher-removal"])
    spent = json.loads((models["fisher-removal"] / "unlearning.json").read_text(encoding="utf-8"))["gradients"]
    for name, settings in FIRST_ORDER.items():
        given = settings | {"gradients": spent}
        pairs = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
        command(*unlearn, "--method", name, *pairs, "--out", models[name])
    documents = {}
    named = [part for name in ("fisher-removal", *FIRST_ORDER) for part in ("--model", f"{name}={models[name]}")]
    for name, retain in (("report", "retain"), ("utility", "utility")):
        command(
            "evaluate", "--original", models["original"], "--reference", models["retrained"], *named, "--forget",
            files["forget"], "--retain", files[retain], "--held-out", files["held_out"], "--out", work / name, *again,
        )  # fmt: skip
        documents[name] = json.loads((work / name / "report.json").read_text(encoding="utf-8"))
    utility = documents["utility"]
    rows = {"original": utility["original"], "retrained": utility["reference"], **utility["methods"]}
    return {
        "document": shortened(documents["report"] | {"title": "TOFU, a small model trained on it"}),
        "utility": {n: {"accuracy": r["retain_accuracy"], "kl": r["kl_retain"]} for n, r in rows.items()},
        "commands": command.log,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, default=os.environ.get("FASTUNLEARN_DATA"))
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "tofu")
    parser.add_argument("--note", default="", help="what else the machine did; README leaves the seconds out")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    if chosen.data is None:
        parser.error("give the data folder, or set FASTUNLEARN_DATA")
    try:
        case = run(Path(chosen.data), chosen.work)
    except InvalidInputError as error:
        parser.error(str(error))
    settings = {"model": MODEL, "first_order": FIRST_ORDER, "note": chosen.note}
    write_json(chosen.out, "TOFU by the command line", settings, [case])
    return 0


if __name__ == "__main__":
    sys.exit(main())
