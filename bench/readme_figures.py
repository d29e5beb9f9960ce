"""Writes the measured figures and the table of methods into README.md, so that none is typed by hand.

    python -m bench.readme_figures            rewrites README.md between its markers
    python -m bench.readme_figures --check    changes nothing; exit status 1 where README.md is not what it would write

Figures come from bench/results alone. A result file that is not there is left out; one that cannot be read is an
error.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.device.goals import verdicts
from bench.generated import write_page
from bench.ghost_gram import refusal
from bench.readme_products import growth_section, products_section
from fastunlearn.audit.document import validate
from fastunlearn.ops.ghost_gram.cost import choose_route
from fastunlearn.unlearn import METHODS

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
README = ROOT / "README.md"
COMPARISONS = {"demo-seeds.json": "The demo", "tofu.json": "TOFU"}
NONE = "–"


def table(rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; the first row is its head. The first column is text, the others are numbers."""
    head, *body = [[cell.replace("|", "\\|").replace("<", "&lt;") for cell in row] for row in rows]
    rule = [":--"] + ["--:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *body])


def methods_section() -> str:
    """The table of methods, as the registry has them."""
    rows = [("Method", "Needs", "What it does")]
    for name, method in METHODS.items():
        alone = "a kept Fisher" if method.uses_kept else "forget records only"
        needs = "retained records" if method.uses_retain else alone
        rows.append((f"`{name}`", needs, method.summary))
    return table(rows).replace("--:", ":--")


def plain(value: float) -> str:
    """Three digits: 0.0016, 0.102, 21.3, 4,321."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.1e}"


def mebibytes(value: float) -> str:
    return f"{value / 2**20:,.0f} MiB"


def middle(values: list[float | None], show: Callable[[float], str] = plain, *, spread: bool = False) -> str:
    """The median of what was measured and, with ``spread``, the least and the most."""
    found = [value for value in values if value is not None]
    if not found:
        return NONE
    text = show(statistics.median(found))
    return f"{text} ({show(min(found))} to {show(max(found))})" if spread and min(found) < max(found) else text


def documents(record: dict, name: str) -> list[dict]:
    """The report documents of a result file: one per case, or the file itself."""
    found = [case["document"] for case in record["cases"]] if "cases" in record else [record]
    if not found:
        raise ValueError(f"{name} has no cases")
    for document in found:
        for item in (document["original"], document.get("reference"), *document["methods"].values()):
            for key in ("steps", "frontier"):  # left out of the result files: long
                if item is not None:
                    item.setdefault(key, [])
        validate(document)
    return found


def _row(items: list[dict], label: str, of: int, timed: bool) -> list[str]:
    def values(key: str) -> list:
        return [item[key] for item in items]

    count = "" if len(items) == of else f" ({len(items)} of {of} seeds)"
    return [
        label + count, middle(values("forget_accuracy"), spread=True), middle(values("retain_accuracy")),
        middle(values("kl_retain"), spread=True), middle(values("kl_forget")), middle(values("gradients")),
        middle(values("seconds")) if timed else NONE, middle(values("peak_bytes"), mebibytes),
    ]  # fmt: skip


def comparison(title: str, record: dict, name: str) -> str:
    """One table: the original, the retrained model and every method, medians over the seeds."""
    found = documents(record, name)
    note = record.get("settings", {}).get("note", "")
    timed = not note  # a note says what else the machine did: its seconds are then no measurement
    head = ["Model", "Forget accuracy", "Retain accuracy", "KL retain", "KL forget", "Gradients", "Seconds", "Memory"]
    rows = [head, _row([document["original"] for document in found], "original", len(found), timed)]
    references = [document["reference"] for document in found if document.get("reference")]
    if references:
        rows.append(_row(references, "retrained", len(found), timed))
    for method in dict.fromkeys(key for document in found for key in document["methods"]):
        items = [document["methods"][method] for document in found if method in document["methods"]]
        star = "" if any(item["uses_retain"] for item in items) else " *"
        rows.append(_row(items, items[0]["label"] + star, len(found), timed))
    seeds = [str(document["seed"]) for document in found if document["seed"] is not None]
    spread = f", medians over seeds {', '.join(seeds)} (in brackets the least and the most)" if len(found) > 1 else ""
    machine, versions = record.get("machine", found[0]["machine"]), found[0]["versions"]
    where = ", ".join(
        str(part) for part in (
            machine.get("cpu") or machine.get("processor"),
            f"{machine['threads']} threads" if "threads" in machine else None,
            f"PyTorch {versions['torch']}" if versions.get("torch") else None, found[0]["created"],
        ) if part
    )  # fmt: skip
    return "\n\n".join([
        f"### {title}\n\n{found[0]['title']}{spread}. Measured on {where}.", table(rows),
        "KL is KL(retrained || model) in nats per target token; 0 is the retrained model. Gradients count one for each "
        "record and pass, those of training for the first two rows. Memory is the peak above that at the start. "
        f"\\* uses no retained record. {note}".strip(),
    ])  # fmt: skip


def _ratio(found: dict, ours: float, floor: float) -> str:
    """Ratio, method and KL; and the ratio of what either adds to the distance ``floor`` of the untouched original."""
    if found["method"] is None:
        return "none forgot as much"
    added = f", added: {plain((ours - floor) / (found['kl_retain'] - floor))}" if found["kl_retain"] > floor else ""
    return f"{plain(found['ratio'])} ({found['method']}, KL {plain(found['kl_retain'])}{added})"


def shown(record: dict) -> str:
    """What the demonstration is to show, seed by seed; nothing for a result file without claims."""
    cases = [case for case in record.get("cases", []) if "claims" in case]
    if not cases:
        return ""
    rows = [["Seed", "Forget accuracy", "Retained accuracy kept", "KL retain / best without retained data",
             "/ best that trains on retained data", "/ its own pull and retained data, no curvature"]]  # fmt: skip
    for case in cases:
        found = case["claims"]
        limit = found["retrained_forget_accuracy"] + 0.05
        at = found["kl_retain"], case["document"]["original"]["kl_retain"]
        rows.append([
            str(case["seed"]), f"{plain(found['forget_accuracy'])}, at most {plain(limit)}",
            f"{100 * found['retain_accuracy_kept']:.1f} %", _ratio(found["without_retain_data"], *at),
            _ratio(found["with_retain_data"], *at), _ratio(found["own_pull_with_retain_data"], *at),
        ])  # fmt: skip
    return "\n\n".join([
        "Fisher Removal's end point against the best point of the others at the same forgetting: of every first-order "
        "method the point, on its way or at the end of any of its trials, that is nearest to the retrained model among "
        "those with a forget accuracy of at most the retrained model's plus 0.05. Every trial had as many gradient "
        "evaluations as Fisher Removal took. Aimed at: at most a quarter without retained data, at most half with it. "
        "The untouched original is not at 0 either, because the two trainings differ: *added* is the ratio of what "
        "each adds to that distance.",
        table(rows),
    ])  # fmt: skip


def utility(record: dict) -> str:
    """Accuracy on the utility records, for a result file that has them."""
    found = [case["utility"] for case in record.get("cases", []) if "utility" in case]
    if not found:
        return ""
    parts = ", ".join(f"{name} {100 * one['accuracy']:.1f} %" for name, one in found[0].items())
    return (
        f"Accuracy on the utility questions (real authors, world facts): {parts}. The first-order methods had one "
        "setting each, one of those of the demonstration, and were not tuned here. `python -m bench.tofu "
        "FOLDER` runs all of it by the command line, with TOFU's files in that folder."
    )


def _cell(result: dict | None) -> str:
    if result is None:
        return NONE
    if "seconds" not in result:
        return refusal(result)
    memory = "" if result["peak_bytes"] is None else f", {mebibytes(result['peak_bytes'])}"
    return f"{plain(result['seconds'] * 1e3)} ms{memory}"


def ghost_gram(record: dict, device: str) -> str:
    """Our two ways and PyTorch's to the Gram of one layer, with what ``route="auto"`` takes today."""
    ways = list(dict.fromkeys(name for case in record["cases"] for name in case["ways"]))
    rows = [["Samples x tokens, layer", *ways, "Fastest of ours", "`auto` takes"]]
    for one in record["cases"]:
        case = one["case"]
        m, tokens, d_in, d_out = (case[name] for name in ("samples", "length", "d_in", "d_out"))
        route = choose_route(m * tokens, m * tokens, m, m, d_in, d_out, True, device)
        rows.append([
            f"{m} x {tokens}, {d_in} to {d_out}", *(_cell(one["ways"].get(way)) for way in ways),
            one["route"]["fastest"] if one["route"]["of"] > 1 else NONE, route,
        ])  # fmt: skip
    machine = record["machine"]
    what = machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} threads"
    isa = record["versions"].get("cpu_isa")
    return "\n\n".join([
        f"### The Gram of one linear layer, {device.upper()}\n\n{what}"
        + (f", {isa}" if isa and device == "cpu" else "")
        + f", PyTorch {record['versions']['torch']}, {record['settings']['dtype']}, {record['date']}. Medians of "
        f"{record['settings']['rounds']} rounds, and the peak memory of one call beyond its inputs. Every result was "
        f"first compared with float64 (relative error at most {record['settings']['gate']:g}).",
        table(rows),
    ])  # fmt: skip


def _read(path: Path) -> dict | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def figures_section(results: Path = RESULTS) -> str:
    """Everything that was measured, as Markdown. Raises ValueError or KeyError for a result file of another shape."""
    parts = []
    for name, title in COMPARISONS.items():
        record = _read(results / name)
        if record is not None:
            parts += [text for text in (comparison(title, record, name), shown(record), utility(record)) if text]
    parts += [text for text in (products_section(results), growth_section(results)) if text]
    for device in ("cpu", "cuda"):
        record = _read(results / f"{device}-ghost-gram.json")
        if record is not None:
            parts.append(ghost_gram(record, device))
    parts.append(gpu_section(results))
    return "\n\n".join(parts)


def gpu_section(results: Path, gpu: str = "h200") -> str:
    """What the GPU kernels are to reach, and what was measured of it."""
    found = verdicts(results, gpu)
    rows = [["Work, bfloat16, random weights", "Goal", "Measured"]]
    for verdict in found:
        mark = {None: "", True: ", met", False: ", not met"}[verdict.met]
        rows.append([verdict.work, verdict.goal, verdict.measured + mark])
    about = f"### On a GPU ({gpu.upper()})\n\n"
    if not any((*results.glob(f"{gpu}-*.json"), *results.glob("cuda-*.json"))):
        about += (
            "No figure of a GPU is known yet: its kernels were compiled for it, and their code was run on the CPU by "
            "the tests, but not on a GPU. This is what `bench/device.sh` measures there."
        )
    return f"{about}\n\n{table(rows).replace('--:', ':--')}"


def fill(text: str, name: str, section: str) -> str:
    """``text`` with ``section`` between the markers of ``name``. Raises ValueError unless each is there once."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"the text needs one {begin} and, after it, one {end}")
    head, _, rest = text.partition(begin)
    return f"{head}{begin}\n\n{section}\n\n{end}{rest.partition(end)[2]}"


def filled(text: str, results: Path = RESULTS) -> str:
    """The README as it should be."""
    return fill(fill(text, "methods", methods_section()), "figures", figures_section(results))


def main(arguments: list[str] | None = None) -> int:
    about = __doc__.splitlines()[0]
    return write_page("bench.readme_figures", about, README, RESULTS, filled, arguments, "--readme")


if __name__ == "__main__":
    sys.exit(main())
