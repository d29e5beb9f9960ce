"""The part of docs/results.md on requests in a row."""

from __future__ import annotations

import statistics

from bench.readme_figures import plain, table
from fastunlearn.unlearn import METHODS

KEPT = 0.95
TEXT = f"""Invented people; requests share people and facts, and every fifth asks again for two records of an earlier
one. Aimed at: {100 * KEPT:.0f} % of the original's accuracy on what nobody asks for. First-order methods were not tuned
here: they have the settings of the demonstration."""


def _last(items: list[dict], key: str) -> str:
    found = [item["requests"][-1][key] for item in items]
    return plain(statistics.median(value for value in found if value is not None))


def requests_section(record: dict) -> str:
    """Utility and forgetting after the last request, and on the way."""
    cases = record["cases"]
    names = list(dict.fromkeys(name for case in cases for name in case["methods"]))
    rows = [["Method", "Accuracy on what was never asked for", "Of the original's",
             "Accuracy on all that was asked for", "KL to the retrained model", "Gradients"]]  # fmt: skip
    for name in names:
        having = [case for case in cases if name in case["methods"]]
        items = [case["methods"][name] for case in having]
        share = statistics.median(
            case["methods"][name]["requests"][-1]["kept"] / case["original"]["kept"] for case in having
        )
        spent = statistics.median(sum(one["gradients"] for one in item["requests"]) for item in items)
        held = " (held)" if share >= KEPT else ""
        rows.append([
            METHODS[name].label, _last(items, "kept"), f"{100 * share:.1f} %{held}", _last(items, "gone"),
            _last(items, "kl_kept"), f"{spent:,.0f}",
        ])  # fmt: skip
    retrained = [plain(statistics.median(case["retrained"][key] for case in cases)) for key in ("kept", "gone")]
    rows.append(["Retrained without all of them", retrained[0], "–", retrained[1], "0", "–"])
    way = [["After request", *(METHODS[name].label for name in names)]]
    for place in _places(record["settings"]["count"]):
        cells = []
        for name in names:
            values = [
                case["methods"][name]["requests"][place - 1][key]
                for key in ("kept", "gone") for case in cases if name in case["methods"]
            ]  # fmt: skip
            half = len(values) // 2
            cells.append(f"{plain(statistics.median(values[:half]))}, {plain(statistics.median(values[half:]))}")
        way.append([f"{place} ({cases[0]['sorts'][place - 1]})", *cells])
    seeds = ", ".join(str(case["seed"]) for case in cases)
    about = f"{TEXT} Medians over seeds {seeds}. {record['settings']['note']}".strip()
    return "\n\n".join([
        f"## {record['settings']['count']} requests in a row\n\n{about}",
        table(rows),
        "On the way: accuracy on what was never asked for, and on all that was asked for so far.",
        table(way),
    ])  # fmt: skip


def _places(count: int) -> list[int]:
    """Which requests are shown: the first of every five, and the last."""
    return [*range(1, count, 5), count]
