"""The demonstration for several seeds: is what it shows more than luck?

    python -m bench.demo_seeds                    seeds 0 1 2; writes bench/results/demo-seeds.json
    python -m bench.demo_seeds --seeds 5 6

Each seed has its own people, its own model trained from scratch and its own retrained model. A seed that is in the
result file of the same version is not run again unless --again is given.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

from fastunlearn import __version__
from fastunlearn.cli._options import progress
from fastunlearn.demo.claims import claims, sentences
from fastunlearn.demo.run import compare
from fastunlearn.demo.subject import make_subject
from fastunlearn.microbench.harness import write_json

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "bench" / "results" / "demo-seeds.json"
TITLE = "The demonstration, by seed"


def shortened(document: dict) -> dict:
    """The document without the points on the methods' ways, which are long; its claims are computed before."""
    short = copy.deepcopy(document)
    for item in (short["original"], short["reference"], *short["methods"].values()):
        del item["steps"], item["frontier"]
        item["metrics"]["exposure"] = []
    return short


def run_seed(seed: int, quiet: bool) -> dict:
    shown = progress(argparse.Namespace(quiet=quiet))
    started = time.perf_counter()
    document = compare(make_subject(seed, progress=shown), seed=seed, progress=shown)
    seconds = time.perf_counter() - started
    return {"seed": seed, "seconds": seconds, "claims": claims(document), "document": shortened(document)}


def known(path: Path) -> dict[int, dict]:
    """The seeds of an earlier, unfinished or smaller run, by number."""
    if not path.exists():
        return {}
    record = json.loads(path.read_text(encoding="utf-8"))
    same = record["versions"].get("fastunlearn") == __version__
    return {case["seed"]: case for case in record["cases"]} if same else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--note", default="", help="what else the machine did; README leaves the seconds out")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--again", action="store_true", help="run seeds again that the file has")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args()
    found = {} if options.again else known(options.out)
    for seed in options.seeds:
        if seed not in found:
            found[seed] = run_seed(seed, options.quiet)
            cases = [found[one] for one in sorted(found)]
            settings = {"seeds": sorted(found), "note": options.note}
            write_json(options.out, TITLE, settings, cases)  # after each: a stop loses one seed
        print(f"seed {seed}:", *sentences(found[seed]["claims"]), sep="\n  ")


if __name__ == "__main__":
    main()
