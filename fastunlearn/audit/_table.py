"""The table of all models: what was forgotten, what was kept, what leaks, what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from fastunlearn.audit._markup import Element, add, make
from fastunlearn.audit._words import EN
from fastunlearn.audit.plot import letter
from fastunlearn.audit.verdict import Verdict, kl_text, share_text

__all__ = ["bytes_text", "count_text", "result_table", "seconds_text"]

MISSING = "–"


def seconds_text(seconds: float, w: Mapping = EN) -> str:
    """A time for reading: 0.42 s, 12 s, 3 min 5 s, 2 h 4 min."""
    if seconds < 10:
        return w["seconds"].format(f"{seconds:.2g}")
    whole = round(seconds)
    if whole < 60:
        return w["seconds"].format(whole)
    if whole < 3600:
        return w["minutes"].format(whole // 60, whole % 60)
    return w["hours"].format(whole // 3600, whole % 3600 // 60)


def count_text(count: int) -> str:
    """A whole number with narrow spaces between the thousands."""
    return f"{count:,}".replace(",", "\u202f")


def bytes_text(count: int | None) -> str:
    """A size for reading, in MiB or GiB."""
    if count is None:
        return MISSING
    mib = count / 2**20
    return f"{mib / 1024:.2f} GiB" if mib >= 1024 else f"{mib:.0f} MiB" if mib >= 10 else f"{mib:.1f} MiB"


def _share(key: str) -> Callable[[dict, Mapping], str]:
    return lambda item, _w: MISSING if item[key] is None else share_text(item[key])


def _kl(key: str) -> Callable[[dict, Mapping], str]:
    return lambda item, _w: MISSING if item[key] is None else kl_text(item[key])


def _bits(key: str) -> Callable[[dict, Mapping], str]:
    return lambda item, _w: MISSING if item["metrics"][key] is None else f"{item['metrics'][key]:.1f}"


def _membership(item: dict, _w: Mapping) -> str | Element:
    found = item["metrics"]["membership"]
    if found is None:
        return MISSING
    ends = make("span", f" {found['low']:.2f}–{found['high']:.2f}", class_="sub")
    return make("span", f"{found['auc']:.2f}", ends)


class _Column(NamedTuple):
    """``group`` and ``heading``: keys of the words."""

    group: str
    heading: str
    cell: Callable[[dict, Mapping], str | Element]


_COLUMNS = (
    _Column("group_accuracy", "column_forgotten", _share("forget_accuracy")),
    _Column("group_accuracy", "column_retained", _share("retain_accuracy")),
    _Column("group_accuracy", "column_held_out", _share("held_out_accuracy")),
    _Column("group_kl", "column_retained", _kl("kl_retain")),
    _Column("group_kl", "column_forgotten", _kl("kl_forget")),
    _Column("group_leaks", "column_membership", _membership),
    _Column("group_leaks", "column_exposure_forget", _bits("exposure_forget")),
    _Column("group_leaks", "column_exposure_retain", _bits("exposure_retain")),
    _Column("group_cost", "column_gradients", lambda item, _w: count_text(item["gradients"])),
    _Column("group_cost", "column_time", lambda item, w: seconds_text(item["seconds"], w)),
    _Column("group_cost", "column_memory", lambda item, _w: bytes_text(item["peak_bytes"])),
    _Column("group_cost", "column_uses", lambda item, w: w["yes"] if item["uses_retain"] else w["no"]),
)


def _starts_group(index: int) -> bool:
    return index == 0 or _COLUMNS[index].group != _COLUMNS[index - 1].group


def _head(w: Mapping) -> Element:
    groups = make("tr", make("th", "", class_="who"))
    names = make("tr", make("th", w["column_model"], scope="col", class_="who"))
    for index, column in enumerate(_COLUMNS):
        if _starts_group(index):
            span = sum(other.group == column.group for other in _COLUMNS)
            add(groups, make("th", w[column.group], colspan=span, scope="colgroup"))
        group = "group" if _starts_group(index) else None
        add(names, make("th", w[column.heading], scope="col", class_=group))
    return make("thead", groups, names)


def _row(title: str, tag: str, item: dict, class_: str | None, w: Mapping) -> Element:
    row = make("tr", make("th", title, make("span", tag, class_="tag") if tag else None, scope="row"))
    if class_:
        row.set("class", class_)
    for index, column in enumerate(_COLUMNS):
        cell = make("td", column.cell(item, w), class_="group" if _starts_group(index) else None)
        add(row, cell)
    return row


def result_table(document: dict, verdict: Verdict, w: Mapping = EN) -> Element:
    """The original, the retrained model, then the methods with the verdict's ranking and letters."""
    body = make("tbody", _row(w["original"], w["before_unlearning"], document["original"], "base", w))
    reference = document["reference"]
    if reference is not None:
        add(body, _row(w["retrained"], w["without_forgotten"], reference, "base", w))
    judged = reference is not None and bool(verdict.reached)
    for index, name in enumerate(verdict.ranking):
        item = document["methods"][name]
        best = judged and index == 0
        tag = w["tag_closest"] if best else "" if name in verdict.reached else w["tag_not_enough"]
        add(body, _row(f"{letter(index)}  {item['label']}", tag, item, "best" if best else None, w))
    table = make("table", _head(w), body, class_="results")
    return make("div", table, class_="scroll", tabindex=0, role="region", aria_label=w["aria_results"])
