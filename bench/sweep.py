"""Sweeps of Fisher Removal's settings on data sets, for docs/guide.md.

    python -m bench.sweep questions verbatim --seed 0

Models are those of bench.quality, kept under --work. Every run is kept there too, so that a sweep that was stopped goes
on; the result is copied to bench/results/sweep-DATASET.json when it is whole.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.quality import MODEL, data_of
from fastunlearn.cli._options import progress
from fastunlearn.evaluation.datasets import DATASETS
from fastunlearn.evaluation.subject import make_subject
from fastunlearn.evaluation.sweep import AXES, sweep
from fastunlearn.microbench.harness import write_json

ROOT = Path(__file__).resolve().parents[1]
TITLE = "Settings of Fisher Removal"
#: Beside those of AXES: which part of the weights may change.
PARTS = {"parameters": ("*mlp*", "*self_attn*", "*layers.1.*")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="+", choices=list(DATASETS), metavar="DATASET", help=", ".join(DATASETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="folder of the data sets' files (default: all generated)")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "quality")
    parser.add_argument("--note", default="", help="what else the machine did; seconds are then left out of the page")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args()
    for name in options.datasets:
        shown = progress(options)
        data = data_of(name, options.folder, options.seed)
        place = options.work / f"{name}-{data.source}-{options.seed}"
        subject = make_subject(data, options.seed, **MODEL, keep=place, progress=shown)
        found = sweep(
            subject.original.model, forget=subject.forget, retain=subject.retain, held_out=subject.held_out,
            out=options.work / f"sweep-{name}-{data.source}-{options.seed}", pad_token_id=subject.pad_token_id,
            axes={**AXES, **PARTS}, reference=subject.reference.model, seed=options.seed, progress=shown,
        )  # fmt: skip
        about = {"dataset": name, "kind": data.kind, "source": data.source} | found.document["about"]
        case = {"about": about, "points": found.points}
        path = ROOT / "bench" / "results" / f"sweep-{name}.json"
        write_json(path, TITLE, {"model": MODEL, "note": options.note}, [case])


if __name__ == "__main__":
    main()
