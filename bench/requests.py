"""Twenty requests in a row on one model: utility and forgetting after each.

    python -m bench.requests --seeds 0 1 2

The data are invented people (evaluation/in_a_row.py): requests share people and facts, and some ask again for what an
earlier one asked for. Each method runs with defaults, or with the settings that --settings names, from where the last
request left the model. Writes bench/results/requests.json after every method; what is there is not run again.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

from fastunlearn import __version__
from fastunlearn.audit.divergence import reference_log_probs
from fastunlearn.cli._options import progress
from fastunlearn.data import encode, train_tokenizer
from fastunlearn.evaluation.in_a_row import make_requests, run_in_a_row
from fastunlearn.evaluation.small_model import make_model
from fastunlearn.evaluation.subject import train_one
from fastunlearn.microbench.harness import write_json
from fastunlearn.unlearn import METHODS
from fastunlearn.unlearn.descent import DescentSettings

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "bench" / "results" / "requests.json"
TITLE = "Twenty requests in a row"
CONTEXT = 32
MODEL = {"layers": 2, "width": 64}
TRAINING = {"steps": 700, "batch_size": 32, "learning_rate": 4e-3}
#: Settings of the methods; first-order ones have those that the demonstration's tuning chose most often, and for every
#: request the gradients that Fisher Removal's largest request may take.
SETTINGS: dict[str, dict] = {
    "fisher-removal": {}, "fisher-forgetting": {}, "kronecker-removal": {},
    "bounded-difference": {"learning_rate": 2e-4, "retain_weight": 4.0},
    "npo-retain": {"learning_rate": 2e-4, "beta": 0.5, "retain_weight": 1.0},
    "gradient-difference": {"learning_rate": 3e-4, "retain_weight": 2.0},
    "gradient-ascent": {"learning_rate": 5e-5},
}  # fmt: skip
STEPS = 8


def run_seed(seed: int, count: int, methods: list[str], case: dict | None, shown, save) -> dict:
    """All methods for one seed; ``save(case)`` after each."""
    asked = make_requests(count, seed=seed)
    people, tokenizer = asked.people, train_tokenizer(asked.people.texts())
    sets = {
        "learnt": encode(people.forget + people.retain, tokenizer, max_length=CONTEXT, name="learnt"),
        "held_out": encode(people.held_out, tokenizer, max_length=CONTEXT, name="held_out"),
    }
    kept = encode(asked.kept, tokenizer, max_length=CONTEXT, name="kept")
    models = [
        train_one(
            what, lambda: make_model(tokenizer, seed, **MODEL, context=CONTEXT), tokenizer, samples, seed=seed,
            progress=shown, **TRAINING,
        )
        for what, samples in (("Original", sets["learnt"]), ("Retrained", kept))
    ]  # fmt: skip
    truth = reference_log_probs(models[1].model, kept, pad_token_id=0)
    requests = [encode(one.records, tokenizer, max_length=CONTEXT) for one in asked.asked]
    case = case or {"seed": seed, "sorts": [one.sort for one in asked.asked], "methods": {}}
    case["records"] = {"learnt": len(sets["learnt"]), "kept": len(kept)}
    case |= _start(models, kept, requests)
    for name in methods:
        if name in case["methods"]:
            continue
        settings = dict(SETTINGS.get(name, {}))
        if issubclass(METHODS[name].settings, DescentSettings):
            settings |= {"gradients": STEPS * (len(sets["learnt"])), "check_every": 4}
        else:
            settings |= {"steps": STEPS}
        found = run_in_a_row(
            copy.deepcopy(models[0].model), requests, **sets, method=name, pad_token_id=0, reference=(truth, kept),
            seed=seed, progress=shown, **settings,
        )  # fmt: skip
        case["methods"][name] = {"settings": settings, "requests": found}
        save(case)
    return case


def _start(models, kept, requests) -> dict:
    from fastunlearn.audit.scores import token_scores

    every = {tuple(s.input_ids.tolist()): s for request in requests for s in request}
    found = {}
    for name, one in zip(("original", "retrained"), models, strict=True):
        found[name] = {
            "kept": token_scores(one.model, kept, pad_token_id=0).accuracy,
            "gone": token_scores(one.model, list(every.values()), pad_token_id=0).accuracy,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--count", type=int, default=20, help="requests, a multiple of 5 (default: 20)")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(SETTINGS), metavar="METHOD")
    parser.add_argument("--note", default="", help="what else the machine did; seconds are then left out of the page")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args()
    settings = {"count": options.count, "model": MODEL, "training": TRAINING, "steps": STEPS, "note": options.note}
    cases: list[dict] = []
    if options.out.exists():
        record = json.loads(options.out.read_text(encoding="utf-8"))
        same = {**record["settings"], "note": options.note} == settings
        if same and record["versions"].get("fastunlearn") == __version__:
            cases = record["cases"]
    for seed in options.seeds:
        case = next((one for one in cases if one["seed"] == seed), None)

        def save(made: dict) -> None:
            others = [one for one in cases if one["seed"] != made["seed"]]
            cases[:] = sorted([*others, made], key=lambda one: one["seed"])
            write_json(options.out, TITLE, settings, cases)

        if case is None or any(name not in case["methods"] for name in options.methods):
            run_seed(seed, options.count, options.methods, case, progress(options), save)


if __name__ == "__main__":
    main()
