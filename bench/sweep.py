"""Sweeps of a method's settings on data sets, for docs/guide.md.

    python -m bench.sweep questions verbatim --seed 0
    python -m bench.sweep questions --method kronecker-removal

Models are those of bench.quality, kept under --work. Every run is kept there too, so that a sweep that was stopped goes
on; the result is copied to bench/results/sweep-[kronecker-]DATASET.json when it is whole.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.quality import MODEL, data_of
from fastunlearn.cli._options import progress
from fastunlearn.evaluation.datasets import DATASETS
from fastunlearn.evaluation.subject import make_subject
from fastunlearn.evaluation.sweep import axes_of, sweep
from fastunlearn.microbench.harness import write_json
from fastunlearn.unlearn import METHODS

ROOT = Path(__file__).resolve().parents[1]
#: The methods that are swept, and what stands in the name of their files.
FILES = {"fisher-removal": "", "kronecker-removal": "kronecker-"}
#: Beside those of AXES: which part of the weights may change.
PARTS = {"parameters": ("*mlp*", "*self_attn*", "*layers.1.*")}
#: What a method has instead of the values of AXES, or besides.
OWN: dict[str, dict[str, tuple]] = {
    "fisher-removal": {},
    "kronecker-removal": {
        "step_norm": (0.5, 1.0, 2.0, 4.0), "exact_weight": (0.0, 10.0, 1e3, 1e5), "curvature": ("ekfac", "kfac"),
        "rehearsals": (0, 10, 30),
    },
}  # fmt: skip


def swept(method: str) -> dict[str, tuple]:
    """The axes of the method's sweep."""
    return axes_of(method) | OWN[method] | PARTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="+", choices=list(DATASETS), metavar="DATASET", help=", ".join(DATASETS))
    parser.add_argument("--method", choices=list(FILES), default="fisher-removal")
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
            out=options.work / f"sweep-{FILES[options.method]}{name}-{data.source}-{options.seed}",
            pad_token_id=subject.pad_token_id, method=options.method, axes=swept(options.method),
            reference=subject.reference.model, seed=options.seed, progress=shown,
        )  # fmt: skip
        about = {"dataset": name, "kind": data.kind, "source": data.source} | found.document["about"]
        case = {"about": about, "points": found.points}
        path = ROOT / "bench" / "results" / f"sweep-{FILES[options.method]}{name}.json"
        title = f"Settings of {METHODS[options.method].label}"
        write_json(path, title, {"model": MODEL, "note": options.note}, [case])


if __name__ == "__main__":
    main()
