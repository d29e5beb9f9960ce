"""Writes docs/results.md from bench/results: what the evaluation found, with what was not run.

python -m bench.results_page             rewrites docs/results.md
python -m bench.results_page --check     changes nothing; exit status 1 where the page is not what it would write
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from bench.generated import write_page
from bench.readme_figures import NONE, plain, table
from bench.results_products import products_section
from bench.results_requests import requests_section
from fastunlearn.evaluation.datasets import DATASETS
from fastunlearn.unlearn import METHODS

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "bench" / "results", ROOT / "docs" / "results.md"
SEEDS = 3  # that are asked for
OURS, OWN_PULL = "fisher-removal", frozenset({"bounded-ascent", "bounded-difference"})
COMPARED = (OURS, "kronecker-removal", "gauss-newton-removal", "kronecker-removal-rehearsed")
HALF, RETURNS = 0.5, 1.2
HEAD = """# Results of the evaluation

Written by `python -m bench.results_page` from `bench/results`. Every method on six data sets against retraining, with
its settings tuned by random search (the retrained model was not looked at), and twenty requests in a row. What it all
means: [the guide](guide.md) and [newton.md](newton.md). Trials of Fisher Forgetting and of Kronecker Removal with
rehearsals were ranked by the words of why they ended; the rule of now, by numbers, takes another one in some cases
([performance.md](performance.md), 42)."""


SHOWN = """## At the forgetting of the retrained model

Aimed at: a KL to the retrained model on retained data of at most half of the best tuned first-order method's. Our
methods count with their end points, as tuned without a look at the retrained model; of every first-order method the
best point counts that had forgotten, on its way or at the end of any trial, which only the retrained model can tell.
The untouched original is not at 0 either: *added* compares what each adds to that. Bounded ascent and difference, which
take Fisher Removal's own pull, are not among these; they are in the tables below."""
ATTACKED = f"""## After an attack

Relearning on a few of the forget records, and weights rounded to 4 bits. Aimed at: at most {RETURNS} times of what the
retrained model regains. A dash: it regains nothing, so that there is no ratio, and the aim is held where the method
regains nothing either. What the retrained model regains is mostly a few tokens. *Within chance*: the 95 % interval of
the difference between the two, over the records, holds 0 or lies below it. *Right after it*: what the attacked model
has right of the forget records, not what it regains, is at most {RETURNS} times what the attacked retrained model has
right."""
MEASURED = """Medians over seeds, with the least and the most. KL is KL(retrained || model) in nats per target token.
Gradients count one for each record and pass, of the trial that was taken. *Forgot*: a forget accuracy within the 95 %
interval of the retrained model's, or below. \\* uses no retained record."""


def read(path: Path) -> dict | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def middle(values, show=plain) -> str:
    found = [value for value in values if value is not None]
    if not found:
        return NONE
    spread = f" ({show(min(found))} to {show(max(found))})" if len(found) > 1 else ""
    return show(statistics.median(found)) + spread


def best_first_order(case: dict, *, own_pull: bool) -> tuple[str, float] | None:
    """The first-order method that came nearest to the retrained model, at any point that had forgotten."""
    found = {
        name: item["nearest"]["kl_retain"] for name, item in case["methods"].items()
        if item.get("first_order") and (name in OWN_PULL) is own_pull and item["nearest"] is not None
    }  # fmt: skip
    name = min(found, key=found.get, default=None)
    return None if name is None else (name, found[name])


def against(case: dict, name: str = OURS) -> dict:
    """A method's end point against the best first-order method's best point at the same forgetting."""
    ours = case["methods"].get(name)
    ours = None if ours is None or "failed" in ours else ours
    found = {"ours": ours, "floor": case["original"]["kl_retain"]}
    for key, own in (("best", False), ("own_pull", True)):
        best = best_first_order(case, own_pull=own)
        found[key] = best
        ratio = None if best is None or ours is None or not ours["forgot"] else ours["kl_retain"] / best[1]
        added = None
        if ratio is not None and best[1] > found["floor"]:
            added = (ours["kl_retain"] - found["floor"]) / (best[1] - found["floor"])
        found[f"{key}_ratio"], found[f"{key}_added"] = ratio, added
    return found


def complete(case: dict) -> bool:
    """Whether every first-order method of the literature was run: without the strongest of them nothing is shown."""
    wanted = {name for name, row in METHODS.items() if row.first_order} - OWN_PULL
    return wanted <= set(case["methods"])


def repairers(case: dict) -> list[bool]:
    """Of each first-order method that trains on retained data: whether any of its points had forgotten."""
    return [
        item["nearest"] is not None for name, item in case["methods"].items()
        if item.get("first_order") and item["uses_retain"] and name not in OWN_PULL
    ]  # fmt: skip


def _shown(case: dict, ratio: float | None) -> bool:
    return ratio is not None and ratio <= HALF and complete(case)


def _case_row(case: dict, name: str) -> list[str]:
    found = against(case, name)
    low, high = case["retrained_interval"][1:]
    ours = found["ours"]
    if ours is None:
        return [case["dataset"], str(case["seed"]), NONE, NONE, NONE, NONE, NONE]
    best = "none forgot as much" if found["best"] is None else f"{found['best'][0]}, {plain(found['best'][1])}"
    ratio, added = found["best_ratio"], found["best_added"]
    reached = "" if ours["forgot"] else " (not reached)"
    return [
        case["dataset"], str(case["seed"]),
        f"{plain(ours['forget_accuracy'])} in {plain(low)} to {plain(high)}{reached}",
        f"{plain(ours['kl_retain'])}, untouched {plain(found['floor'])}", best,
        NONE if ratio is None else plain(ratio) + (" (shown)" if _shown(case, ratio) else ""),
        NONE if added is None else plain(added),
    ]  # fmt: skip


def _held(cases: list[dict], name: str) -> str:
    """The table of one of our methods, and in how many cases it holds."""
    label = METHODS[name].label
    rows = [["Data set", "Seed", "Forget accuracy, and the retrained model's interval", f"KL retain, {label}",
             "Best first-order point", "Ratio", "Ratio of what is added"]]  # fmt: skip
    rows += [_case_row(case, name) for case in cases]
    found = [against(case, name) for case in cases]
    held = sum(_shown(case, one["best_ratio"]) for case, one in zip(cases, found, strict=True))
    added = sum(_shown(case, one["best_added"]) for case, one in zip(cases, found, strict=True))
    far = sum(one["best"] is not None and one["floor"] > HALF * one["best"][1] for one in found)
    return (
        f"{table(rows)}\n\n{label}: held in {held} of {len(cases)} cases. In {far} of them the untouched original is "
        "itself further away than half of the best first-order point, so that no method near it can hold it. Of what "
        f"is added, at most half: in {added}."
    )


def shown_section(cases: list[dict]) -> str:
    """At the retrained model's forgetting: the distance to it on retained data, ours over the best first-order's."""
    tables = [_held(run, name) for name in COMPARED if (run := [case for case in cases if name in case["methods"]])]
    partly = sum(not complete(case) for case in cases)
    none = sum(complete(case) and not any(repairers(case)) for case in cases)
    return "\n\n".join([
        SHOWN,
        *tables,
        f"{partly} of the cases do not count, because not all first-order methods were run on them (see the end of the "
        f"page). In {none} of the others no method that trains on retained data forgot as much within its budget and "
        "trials, so that ours stand against methods without retained data only: that says as much of the budget as of "
        "the methods.",
    ])  # fmt: skip


def _method_row(name: str, cases: list[dict], timed: bool) -> list[str]:
    items = [case["methods"][name] for case in cases if "failed" not in case["methods"].get(name, {"failed": ""})]
    if not items:
        return []
    star = "" if any(item["uses_retain"] for item in items) else " *"
    forgot = sum(item["forgot"] for item in items)
    auc = [item["membership"]["auc"] for item in items if item["membership"]]
    return _row(items[0]["label"] + star, items, f"{forgot} of {len(items)}", auc, timed)


def _row(label: str, items: list[dict], forgot: str, auc: list, timed: bool) -> list[str]:
    def values(key: str) -> list:
        return [item[key] for item in items]

    return [
        label, forgot, middle(values("forget_accuracy")), middle(values("retain_accuracy")),
        middle(values("kl_retain")), middle(values("kl_forget")), middle(values("kl_fresh")), middle(auc),
        middle(values("gradients")), middle(values("seconds")) if timed else NONE,
    ]  # fmt: skip


def dataset_section(name: str, record: dict) -> str:
    """The table of one data set: medians over its seeds."""
    cases, timed = record["cases"], not record["settings"]["note"]
    head = ["Model", "Forgot", "Forget accuracy", "Retain accuracy", "KL retain", "KL forget", "KL fresh",
            "Membership AUC", "Gradients", "Seconds"]  # fmt: skip
    rows = [head]
    for key in ("original", "reference", "private"):
        items = [case[key] for case in cases if key in case]
        if items:
            auc = [item["membership"]["auc"] for item in items if item["membership"]]
            rows.append(_row(items[0]["label"], items, NONE, auc, timed))
    rows += [row for method in METHODS if (row := _method_row(method, cases, timed))]
    first = cases[0]
    sources = sorted({case["source"] for case in cases})
    sizes = ", ".join(f"{count} {key.replace('_', '-')}" for key, count in first["records"].items())
    private = [case["private"]["settings"]["epsilon"] for case in cases if "private" in case]
    more = f" Private training: epsilon {plain(statistics.median(private))}." if private else ""
    seeds = ", ".join(str(case["seed"]) for case in cases)
    return "\n\n".join([
        f"## {first['kind'].capitalize()} ({name})\n\nSource: {', '.join(sources)}; {sizes} records; seeds {seeds}; "
        f"{first['weights']:,} weights. Budget: {first['trials']} trials of every method's settings, each of at most "
        f"{first['budget']:,} gradients.{more}",
        table(rows),
    ])  # fmt: skip


def _returned(attacks: dict, attack: str) -> dict | None:
    measures = attacks.get(attack, {}).get("measures", {})
    return measures.get("accuracy")


def _attacked(cases: list[dict]) -> list[tuple[dict, str, str, dict]]:
    """(case, method's name, attack, what it brought back), of all that were attacked."""
    attacks = list(dict.fromkeys(
        attack for case in cases for item in case["methods"].values() for attack in item.get("attacks", {})
    ))  # fmt: skip
    return [
        (case, name, attack, found)
        for case in cases for name, item in case["methods"].items() for attack in attacks
        if (found := _returned(item.get("attacks", {}), attack)) is not None
    ]  # fmt: skip


def withstands(found: dict) -> bool:
    """Whether a method regains at most RETURNS times what the retrained model does."""
    model, reference = found["model"]["regained"]["value"], found["reference"]["regained"]["value"]
    return model <= RETURNS * max(0.0, reference)


def as_little_is_right(found: dict) -> bool:
    """Whether the attacked model has at most RETURNS times right what the attacked retrained model has."""
    return found["model"]["after"]["value"] <= RETURNS * found["reference"]["after"]["value"]


def _withstanding(found: list[tuple[dict, str, str, dict]]) -> str:
    """How often each method holds, of all cases."""
    rows = [["Method", "Attack", "Cases", f"At most {RETURNS} times", "Within chance",
             f"Right after it, at most {RETURNS} times", "Regained beyond the retrained model's"]]  # fmt: skip
    pairs = dict.fromkeys((name, attack) for _, name, attack, _ in found)
    for name, attack in sorted(pairs, key=lambda pair: (pair[1], list(METHODS).index(pair[0]))):
        some = [one for _, other, kind, one in found if (other, kind) == (name, attack)]
        some = [one for one in some if one["reference"] is not None]
        if some:
            rows.append([
                METHODS[name].label, attack, str(len(some)), str(sum(map(withstands, some))),
                str(sum(one["excess"]["low"] <= 0 for one in some)), str(sum(map(as_little_is_right, some))),
                middle([one["excess"]["value"] for one in some]),
            ])  # fmt: skip
    return table(rows)


def attacks_section(cases: list[dict]) -> str:
    """What comes back under attack, next to what the retrained model gains."""
    found = _attacked(cases)
    if not found:
        return ""
    rows = [["Data set", "Seed", "Method", "Attack", "Forget accuracy, before and after", "Retrained, before and after",
             "Regained, over the retrained model's"]]  # fmt: skip
    rows += [
        [case["dataset"], str(case["seed"]), METHODS[name].label, attack, *_attack_cells(one)]
        for case, name, attack, one in found
    ]
    return f"{ATTACKED}\n\n{_withstanding(found)}\n\nEach case:\n\n{table(rows)}"


def _attack_cells(found: dict) -> list[str]:
    def pair(side: dict | None) -> str:
        return NONE if side is None else f"{plain(side['before']['value'])}, {plain(side['after']['value'])}"

    ratio = found["ratio"] and found["ratio"]["value"]
    return [pair(found["model"]), pair(found["reference"]), NONE if ratio is None else plain(ratio)]


def missing_section(records: dict[str, dict]) -> str:
    """What the evaluation asks for and was not run."""
    lines = []
    for name in DATASETS:
        cases = records.get(name, {"cases": []})["cases"]
        seeds = len(cases)
        if seeds < SEEDS:
            lines.append(f"- {name}: {SEEDS - seeds} of {SEEDS} seeds")
        for case in cases:
            absent = [method for method in METHODS if method not in case["methods"]]
            if absent:
                lines.append(f"- {name}, seed {case['seed']}: {', '.join(absent)}")
            lines += [
                f"- {name}, seed {case['seed']}: every trial of {method} failed ({item['failed']})"
                for method, item in case["methods"].items() if "failed" in item
            ]  # fmt: skip
    text = "\n".join(lines) or "Nothing: all data sets, seeds and methods were run."
    return f"## Not run\n\n{text}"


def page(results: Path = RESULTS) -> str:
    """The whole page."""
    records = {name: found for name in DATASETS if (found := read(results / f"quality-{name}.json")) is not None}
    parts = [HEAD]
    cases = [case for record in records.values() for case in record["cases"]]
    if cases:
        first = next(iter(records.values()))
        machine, versions = first["machine"], first["versions"]
        where = f"{machine['cpu']}, {machine['threads']} threads, PyTorch {versions['torch']}, {first['date']}"
        notes = sorted({record["settings"]["note"] for record in records.values()} - {""})
        parts.append(f"Measured on {where}. {MEASURED} {' '.join(notes)}".strip())
        parts.append(shown_section(cases))
        sweeps = {name: found for name in records if (found := read(results / f"sweep-kronecker-{name}.json"))}
        parts.append(products_section(cases, sweeps, lambda case: best_first_order(case, own_pull=False)))
        parts += [dataset_section(name, record) for name, record in records.items()]
        parts.append(attacks_section(cases))
    requests = read(results / "requests.json")
    parts.append("" if requests is None else requests_section(requests))
    parts.append(missing_section(records))
    return "\n\n".join(part for part in parts if part) + "\n"


def main(arguments: list[str] | None = None) -> int:
    about = __doc__.splitlines()[0]
    return write_page("bench.results_page", about, PAGE, RESULTS, lambda _, results: page(results), arguments)


if __name__ == "__main__":
    sys.exit(main())
