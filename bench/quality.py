"""What is forgotten, what is kept, what it costs: every method on six data sets against retraining.

    python -m bench.quality questions news literature biographies personal verbatim --seeds 0 1 2
    python -m bench.quality questions --folder DATA --methods fisher-removal npo-retain

For each data set and seed: a small model is trained on all records and another without those to forget; every method
unlearns from the first, with its settings tuned by random search (the same number of trials, each within the same
budget of gradients; the retrained model is not looked at); what comes out is measured against the second. Some are
attacked. With --folder the data sets are made of the files that it holds, the others are generated. A run that was
stopped goes on: models are kept under --work, and bench/results/quality-DATASET.json is written after every method.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fastunlearn import __version__
from fastunlearn.audit.divergence import kl, reference_log_probs
from fastunlearn.cli._options import progress
from fastunlearn.errors import InvalidInputError
from fastunlearn.evaluation.contest import Contest, accuracy_interval
from fastunlearn.evaluation.datasets import DATASETS, EvaluationSet, make_dataset
from fastunlearn.evaluation.small_model import make_model
from fastunlearn.evaluation.subject import Subject, Trained, make_subject
from fastunlearn.evaluation.trials import budget_of, trial_settings
from fastunlearn.microbench.harness import write_json
from fastunlearn.private_training import train_private
from fastunlearn.resources import measured
from fastunlearn.unlearn import METHODS, keep_fisher

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
MODEL = {"layers": 2, "width": 64, "steps": 600, "batch_size": 16, "learning_rate": 4e-3}
#: Small, so that a data set and seed take minutes on two cores.
FEW = {"forget": 16, "retain": 96, "held_out": 32, "fresh": 24}
SIZES = {
    "questions": {"forget_people": 1, "retain_people": 5, "held_out_people": 2, "fresh": 24},
    "news": FEW, "literature": FEW, "biographies": FEW,
    "personal": {"forget": 15, "retain": 60, "held_out": 30, "fresh": 24},
    "verbatim": {"forget": 10, "retain": 60, "held_out": 24, "fresh": 20},
}  # fmt: skip
TRACED = 64
RANK = 128  # of the kept Fisher
PRIVATE = {"steps": 200, "batch_size": 32, "noise": 1.0, "max_norm": 1.0, "delta": 1e-3, "learning_rate": 2e-3}
#: Attacked beside the original: ours, and what comes nearest of the others.
ATTACKED = (
    "fisher-removal", "fisher-forgetting", "kronecker-removal", "gauss-newton-removal", "kronecker-removal-rehearsed",
    "k-fade", "gradient-difference", "npo-retain", "bounded-difference", "rmu",
)  # fmt: skip
ATTACKS = ("relearn", "quantise-nf4")
SHOWN = (
    "label", "uses_retain", "gradients", "seconds", "peak_bytes", "forget_accuracy", "retain_accuracy",
    "held_out_accuracy", "kl_retain", "kl_forget", "settings", "stopped",
)  # fmt: skip


def path_of(name: str, results: Path = RESULTS) -> Path:
    return results / f"quality-{name}.json"


def nearest(item: dict, limit: float) -> dict | None:
    """The point that is nearest to the retrained model among those that have forgotten: of the end, of the way and of
    all other trials."""
    points = (item, *item["steps"], *item["frontier"])
    known = [p for p in points if p.get("kl_retain") is not None and p["forget_accuracy"] <= limit]
    if not known:
        return None
    best = min(known, key=lambda point: point["kl_retain"])
    return {"forget_accuracy": best["forget_accuracy"], "kl_retain": best["kl_retain"]}


def data_of(name: str, folder: Path | None, seed: int) -> EvaluationSet:
    """The data set, of the folder's files where it has them all; else, as its ``source`` says, generated."""
    files = DATASETS[name].FILES
    has = folder is not None and files and all((folder / file).is_file() for file in files)
    return make_dataset(name, folder if has else None, seed=seed, **SIZES[name])


class Case:
    """One data set and seed: its models, and what was found so far."""

    def __init__(self, name: str, seed: int, folder: Path | None, work: Path, trials: int, shown):
        data = data_of(name, folder, seed)
        self.trials, self.seed, self.progress = trials, seed, shown
        self.subject: Subject = make_subject(
            data, seed, **MODEL, keep=work / f"{name}-{data.source}-{seed}", progress=shown
        )
        pad = {"pad_token_id": self.subject.pad_token_id}
        forgotten = accuracy_interval(self.subject.reference.model, self.subject.forget, **pad, seed=seed)
        self.contest = Contest(self.subject, seed=seed, traced=TRACED, limit=forgotten.high, progress=shown)
        self._fresh = reference_log_probs(self.subject.reference.model, self.subject.fresh, **pad)
        self._kept = None
        self.budget = budget_of(len(self.subject.forget), len(self.subject.retain))
        self.found = {
            "dataset": name, "kind": data.kind, "seed": seed, "source": data.source, "budget": self.budget,
            "trials": trials, "limit": forgotten.high, "retrained_interval": list(forgotten),
            "records": {key: len(records) for key, records in data.sets.items()},
            "weights": self.subject.original.model.num_parameters(), "vocabulary": len(self.subject.tokenizer),
            "methods": {},
        }  # fmt: skip

    def _entry(self, item: dict, model) -> dict:
        metrics, pad = item["metrics"], self.subject.pad_token_id
        return {key: item[key] for key in SHOWN} | {
            "kl_held_out": metrics["kl_held_out"], "membership": metrics["membership"],
            "exposure_forget": metrics["exposure_forget"], "forget_loss": metrics["forget"]["loss"],
            "kl_fresh": kl(self._fresh, model, self.subject.fresh, pad_token_id=pad),
        }  # fmt: skip

    def trained(self) -> None:
        """The entries of the original and the retrained model."""
        for key, label in (("original", "Original"), ("reference", "Retrained")):
            one: Trained = getattr(self.subject, key)
            entry = self._entry(self.contest.trained(label, one, uses_retain=True), one.model)
            self.found[key] = entry | {
                "settings": MODEL,
                "attacks": self._attack(one.model) if key == "original" else {},
            }

    def method(self, name: str) -> dict:
        """One method, tuned; and attacked, where it is one of ATTACKED."""
        subject = self.subject
        grid = trial_settings(
            name, trials=self.trials, budget=self.budget, forget=len(subject.forget), retain=len(subject.retain),
            seed=self.seed,
        )  # fmt: skip
        kept = self._kept_fisher() if METHODS[name].uses_kept else None
        try:
            self.contest.run_tuned(name, self.budget, grid, kept=kept)
        except InvalidInputError as error:  # every trial failed
            return {"label": METHODS[name].label, "failed": str(error)}
        item = self.contest.methods[name]
        entry = self._entry(item, self.contest.model)
        limit = self.contest.limit
        return entry | {
            "first_order": METHODS[name].first_order, "nearest": nearest(item, limit),
            "tried": list(item["frontier"]), "forgot": item["forget_accuracy"] <= limit,
            "attacks": self._attack(self.contest.model) if name in ATTACKED else {},
        }  # fmt: skip

    def _kept_fisher(self):
        """Of all records, by their own labels: a draw of labels is mostly below the mean that WIN-U would take out."""
        if self._kept is None:
            data = self.subject.forget + self.subject.retain
            model = self.subject.original.model
            self._kept = keep_fisher(model, None, data, rank=RANK, damping=1e-3, progress=self.progress)
        return self._kept

    def _attack(self, model) -> dict:
        from fastunlearn.audit.attacks import run_attacks

        sets = {"forget": self.subject.forget, "retain": self.subject.retain, "held_out": self.subject.held_out}
        return run_attacks(
            model, self.subject.tokenizer, sets, names=list(ATTACKS), reference=self.subject.reference.model,
            pad_token_id=self.subject.pad_token_id, seed=self.seed, settings={"relearn": {"steps": 30}},
        )  # fmt: skip

    def private(self) -> dict:
        """The reference line: a model trained with differential privacy on everything, which then has little to
        forget."""
        subject = self.subject
        model = make_model(
            subject.tokenizer, self.seed, layers=MODEL["layers"], width=MODEL["width"],
            context=subject.original.model.config.max_position_embeddings,
        )  # fmt: skip
        with measured() as usage:
            log = train_private(
                model, subject.forget + subject.retain, **PRIVATE, seed=self.seed, pad_token_id=subject.pad_token_id,
                progress=self.progress,
            )  # fmt: skip
        trained = Trained(model, log, usage.seconds, usage.peak_bytes)
        entry = self._entry(self.contest.trained("Trained with DP-SGD", trained, uses_retain=True), model)
        return entry | {"settings": PRIVATE | {"epsilon": log.epsilon}, "attacks": {}}


def known(path: Path, settings: dict) -> list[dict]:
    """The cases of an earlier run with the same settings and budget."""
    if not path.exists():
        return []
    record = json.loads(path.read_text(encoding="utf-8"))
    same = record["versions"].get("fastunlearn") == __version__ and record["settings"]["run"] == settings["run"]
    cases = record["cases"] if same else []
    return [case for case in cases if case["budget"] == budget_of(*(case["records"][k] for k in ("forget", "retain")))]


def run(name: str, options, shown) -> None:
    """All seeds of one data set."""
    path = path_of(name, options.results)
    settings = {
        "run": {
            "model": MODEL, "sizes": SIZES[name], "trials": options.trials, "private": PRIVATE,
            "folder": options.folder is not None,
        },
        "note": options.note,
    }  # fmt: skip
    cases = known(path, settings)
    for seed in options.seeds:
        case = next((one for one in cases if one["seed"] == seed), None)
        missing = [m for m in options.methods if case is None or "failed" in case["methods"].get(m, {"failed": ""})]
        wants_private = options.private and (case is None or "private" not in case)
        if case is not None and not missing and not wants_private:
            continue
        made = Case(name, seed, options.folder, options.work, options.trials, shown)
        if case is None:
            case = made.found
            made.trained()
            cases.append(case)
        else:
            made.found = case
        print(f"{name}, seed {seed}: {case['budget']} gradients for each of {options.trials} trials of every method")
        for method in missing:
            case["methods"][method] = made.method(method)
            write_json(path, TITLE, settings, cases)
        if wants_private:
            case["private"] = made.private()
        write_json(path, TITLE, settings, cases)


TITLE = "Methods on data sets, against retraining"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="+", choices=list(DATASETS), metavar="DATASET", help=", ".join(DATASETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, help="folder of the data sets' files (default: all generated)")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="METHOD")
    parser.add_argument("--trials", type=int, default=3, help="of each method's settings (default: 3)")
    parser.add_argument("--private", action="store_true", help="also train with differential privacy, to compare")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "quality")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--note", default="", help="what else the machine did; seconds are then left out of the page")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args(arguments)
    for name in options.datasets:
        run(name, options, progress(options))


if __name__ == "__main__":
    main()
