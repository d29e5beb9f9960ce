"""The report's tables of further metrics and of attacks, for documents that hold them."""

from __future__ import annotations

from collections.abc import Mapping

from fastunlearn.audit._markup import Element, add, make
from fastunlearn.audit.plot import letter
from fastunlearn.audit.verdict import Verdict

__all__ = ["attack_table", "metric_table"]


def _columns(document: dict, verdict: Verdict, w: Mapping) -> dict[str, dict]:
    """Heading to entry: the original, the retrained model, then the methods in the verdict's order."""
    found = {w["original"]: document["original"]}
    if document["reference"] is not None:
        found[w["retrained"]] = document["reference"]
    for index, name in enumerate(verdict.ranking):
        item = document["methods"][name]
        found[f"{letter(index)}  {item['label']}"] = item
    return found


def _number(one: Mapping | None) -> str:
    return "–" if one is None or one["value"] is None else f"{one['value']:.3g}"


def _cell(text: str, one: Mapping | None) -> Element:
    ends = None
    if one is not None and one["low"] is not None and one["high"] is not None:
        ends = make("span", f"{one['low']:.3g}–{one['high']:.3g}", class_="sub")
    return make("td", text, ends)


def _table(headings: list[str], rows: list[Element], label: str) -> Element:
    head = make("tr", *(make("th", text, scope="col") for text in headings))
    table = make("table", make("thead", head), add(make("tbody"), *rows))
    return make("div", table, class_="scroll", tabindex=0, role="region", aria_label=label)


def metric_table(document: dict, verdict: Verdict, w: Mapping) -> Element | None:
    """One row for each metric and place, one column for each model, with intervals; None where there is none."""
    columns = {title: item["more_metrics"] for title, item in _columns(document, verdict, w).items()
               if "more_metrics" in item}  # fmt: skip
    places = dict.fromkeys((metric, place) for found in columns.values() for metric in found for place in found[metric])
    if not places:
        return None
    rows = []
    for metric, place in places:
        row = make("tr", make("th", metric, make("span", place, class_="sub"), scope="row"))
        for found in columns.values():
            one = found.get(metric, {}).get(place)
            add(row, _cell(_number(one), one))
        rows.append(row)
    return _table([w["column_metric"], *columns], rows, w["more_metrics"])


def attack_table(document: dict, verdict: Verdict, w: Mapping) -> Element | None:
    """One row for each attack and measure: of each model the value before and after, with the interval of what it
    regained; the retrained model beside them. None where there is none."""
    columns = {title: item["attacks"] for title, item in _columns(document, verdict, w).items() if item.get("attacks")}
    if not columns:
        return None
    kinds = dict.fromkeys(
        (attack, measure) for found in columns.values() for attack in found for measure in found[attack]["measures"]
    )
    rows = []
    for attack, measure in kinds:
        row = make("tr", make("th", attack, make("span", measure, class_="sub"), scope="row"))
        sides = [found.get(attack, {}).get("measures", {}).get(measure) for found in columns.values()]
        other = next((one["reference"] for one in sides if one is not None and one["reference"]), None)
        for side in [other, *(one and one["model"] for one in sides)]:
            add(row, _side(side))
        rows.append(row)
    return _table([w["column_attack"], w["retrained"], *columns], rows, w["attacks"])


def _side(side: Mapping | None) -> Element:
    if side is None:
        return make("td", "–")
    gain = side["regained"]
    ends = ""
    if gain["low"] is not None and gain["high"] is not None:
        ends = f" ({gain['low']:+.2f}–{gain['high']:+.2f})"
    change = "–" if gain["value"] is None else f"{gain['value']:+.2f}{ends}"
    return make("td", f"{_number(side['before'])} → {_number(side['after'])}", make("span", change, class_="sub"))
