"""Sweeps of a method's settings on data sets, for docs/guide.md.

    python -m bench.sweep questions verbatim --seeds 0 1 2
    python -m bench.sweep questions --method kronecker-removal

Models are those of bench.quality, kept under --work. Every run is kept there too, so that a sweep that was stopped goes
on; when all seeds are whole, they are written to bench/results/sweep-[kronecker-]DATASET.json, a case for each.
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
from fastunlearn.progress import Progress
from fastunlearn.unlearn import METHODS

ROOT = Path(__file__).resolve().parents[1]
#: The methods that are swept, and what stands in the name of their files.
FILES = {"fisher-removal": "", "kronecker-removal": "kronecker-"}
SEEDS = (0, 1, 2)
#: Beside those of AXES: which part of the weights may change.
PARTS = {"parameters": ("*mlp*", "*self_attn*", "*layers.1.*")}
#: What a method has instead of the values of AXES, or besides.
OWN: dict[str, dict[str, tuple]] = {
    "fisher-removal": {},
    "kronecker-removal": {
        "step_norm": (0.5, 1.0, 2.0, 4.0), "exact_weight": (0.0, 10.0, 1e3, 1e5), "curvature": ("ekfac", "kfac"),
        "products": (0, 4, 10), "rehearsals": (0, 10, 40),
    },
}  # fmt: skip


def swept(method: str) -> dict[str, tuple]:
    """The axes of the method's sweep."""
    return axes_of(method) | OWN[method] | PARTS


def one_sweep(name: str, seed: int, method: str, folder: Path | None, work: Path, shown: Progress | None) -> dict:
    """One data set and seed: what was swept, and its runs."""
    data = data_of(name, folder, seed)
    subject = make_subject(data, seed, **MODEL, keep=work / f"{name}-{data.source}-{seed}", progress=shown)
    found = sweep(
        subject.original.model, forget=subject.forget, retain=subject.retain, held_out=subject.held_out,
        out=work / f"sweep-{FILES[method]}{name}-{data.source}-{seed}", pad_token_id=subject.pad_token_id,
        method=method, axes=swept(method), reference=subject.reference.model, seed=seed, progress=shown,
    )  # fmt: skip
    about = {"dataset": name, "kind": data.kind, "source": data.source} | found.document["about"]
    return {"about": about, "points": found.points}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="+", choices=list(DATASETS), metavar="DATASET", help=", ".join(DATASETS))
    parser.add_argument("--method", choices=list(FILES), default="fisher-removal")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--folder", type=Path, help="folder of the data sets' files (default: all generated)")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "quality")
    parser.add_argument("--note", default="", help="what else the machine did; seconds are then left out of the page")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args()
    shown, title = progress(options), f"Settings of {METHODS[options.method].label}"
    for name in options.datasets:
        cases = [one_sweep(name, seed, options.method, options.folder, options.work, shown) for seed in options.seeds]
        path = ROOT / "bench" / "results" / f"sweep-{FILES[options.method]}{name}.json"
        write_json(path, title, {"model": MODEL, "note": options.note}, cases)


if __name__ == "__main__":
    main()
