"""The table of all models: what was forgotten, what was kept, what leaks, what it cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fastunlearn.audit._markup import Element, add, make
from fastunlearn.audit.plot import letter
from fastunlearn.audit.verdict import Verdict, kl_text, share_text

__all__ = ["bytes_text", "count_text", "result_table", "seconds_text"]

MISSING = "–"
_LEAKS = "Leaks (exposure in bits)"


def seconds_text(seconds: float) -> str:
    """A time for reading: 0.42 s, 12 s, 3 min 5 s, 2 h 4 min."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def count_text(count: int) -> str:
    """A whole number with narrow spaces between the thousands."""
    return f"{count:,}".replace(",", "\u202f")


def bytes_text(count: int | None) -> str:
    """A size for reading, in MiB or GiB."""
    if count is None:
        return MISSING
    mib = count / 2**20
    return f"{mib / 1024:.2f} GiB" if mib >= 1024 else f"{mib:.0f} MiB" if mib >= 10 else f"{mib:.1f} MiB"


def _share(key: str) -> Callable[[dict], str]:
    return lambda item: MISSING if item[key] is None else share_text(item[key])


def _kl(key: str) -> Callable[[dict], str]:
    return lambda item: MISSING if item[key] is None else kl_text(item[key])


def _bits(key: str) -> Callable[[dict], str]:
    return lambda item: MISSING if item["metrics"][key] is None else f"{item['metrics'][key]:.1f}"


def _membership(item: dict) -> str | Element:
    found = item["metrics"]["membership"]
    if found is None:
        return MISSING
    ends = make("span", f" {found['low']:.2f}–{found['high']:.2f}", class_="sub")
    return make("span", f"{found['auc']:.2f}", ends)


class _Column(NamedTuple):
    group: str
    heading: str
    cell: Callable[[dict], str | Element]


_COLUMNS = (
    _Column("Accuracy", "forgotten data", _share("forget_accuracy")),
    _Column("Accuracy", "retained data", _share("retain_accuracy")),
    _Column("Accuracy", "held-out data", _share("held_out_accuracy")),
    _Column("KL to retrained, nats", "retained data", _kl("kl_retain")),
    _Column("KL to retrained, nats", "forgotten data", _kl("kl_forget")),
    _Column(_LEAKS, "membership AUC", _membership),
    _Column(_LEAKS, "exposure, forgotten", _bits("exposure_forget")),
    _Column(_LEAKS, "exposure, kept", _bits("exposure_retain")),
    _Column("Cost", "gradients", lambda item: count_text(item["gradients"])),
    _Column("Cost", "time", lambda item: seconds_text(item["seconds"])),
    _Column("Cost", "peak memory", lambda item: bytes_text(item["peak_bytes"])),
    _Column("Cost", "uses retained", lambda item: "yes" if item["uses_retain"] else "no"),
)


def _starts_group(index: int) -> bool:
    return index == 0 or _COLUMNS[index].group != _COLUMNS[index - 1].group


def _head() -> Element:
    groups = make("tr", make("th", "", class_="who"))
    names = make("tr", make("th", "model", scope="col", class_="who"))
    for index, column in enumerate(_COLUMNS):
        if _starts_group(index):
            span = sum(other.group == column.group for other in _COLUMNS)
            add(groups, make("th", column.group, colspan=span, scope="colgroup"))
        add(names, make("th", column.heading, scope="col", class_="group" if _starts_group(index) else None))
    return make("thead", groups, names)


def _row(title: str, tag: str, item: dict, class_: str | None) -> Element:
    row = make("tr", make("th", title, make("span", tag, class_="tag") if tag else None, scope="row"))
    if class_:
        row.set("class", class_)
    for index, column in enumerate(_COLUMNS):
        cell = make("td", column.cell(item), class_="group" if _starts_group(index) else None)
        add(row, cell)
    return row


def result_table(document: dict, verdict: Verdict) -> Element:
    """The original, the retrained model, then the methods with the verdict's ranking and letters."""
    body = make("tbody", _row("original", "before unlearning", document["original"], "base"))
    reference = document["reference"]
    if reference is not None:
        add(body, _row("retrained", "without the forgotten data", reference, "base"))
    judged = reference is not None and bool(verdict.reached)
    for index, name in enumerate(verdict.ranking):
        item = document["methods"][name]
        best = judged and index == 0
        tag = "closest to retraining" if best else "" if name in verdict.reached else "did not forget enough"
        add(body, _row(f"{letter(index)}  {item['label']}", tag, item, "best" if best else None))
    table = make("table", _head(), body, class_="results")
    return make("div", table, class_="scroll", tabindex=0, role="region", aria_label="Results of all models")
