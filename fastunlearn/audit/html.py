"""The report as one self-contained HTML page: nothing is loaded from elsewhere, everything is escaped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from fastunlearn.audit import _words
from fastunlearn.audit._markup import Element, add, make, write
from fastunlearn.audit._style import STYLE
from fastunlearn.audit._table import bytes_text, count_text, result_table, seconds_text
from fastunlearn.audit.document import is_first_order, validate
from fastunlearn.audit.plot import frontier_svg, letter
from fastunlearn.audit.verdict import Verdict, judge, kl_text, share_text
from fastunlearn.errors import OutputError
from fastunlearn.storage.files import write_json, write_text

__all__ = ["report_html", "write_report"]

#: Rows of a method's table of steps; a longer way is thinned out (report.json has all of it).
STEP_ROWS = 40


def _value_text(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_value_text(item) for item in value) or "–"
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_value_text(item)}" for key, item in value.items()) or "–"
    if isinstance(value, int) and abs(value) >= 10_000:
        return count_text(value)
    return str(value)


def _flat(values: Mapping, prefix: str = "") -> Iterable[tuple[str, object]]:
    for key, value in values.items():
        name = prefix + key.replace("_", " ")
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name}, ")
        else:
            yield name, value


def _pairs(values: Mapping) -> Element:
    pairs = make("dl", class_="pairs")
    for name, value in _flat(values):
        words = bytes_text(value) if name.endswith("bytes") and isinstance(value, int) else _value_text(value)
        add(pairs, make("dt", name), make("dd", words))
    return pairs if len(pairs) else make("p", "Nothing was recorded.", class_="note")


def _step_text(key: str, value: object) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if key.endswith("accuracy"):
            return share_text(value)
        if key.startswith("kl_") and value >= 0:
            return kl_text(value)
    return _value_text(value)


def _steps(steps: list[dict]) -> Element | None:
    """The way of a method as a table of the numbers that its steps carry."""
    keys = list(dict.fromkeys(key for step in steps for key in step))
    keys = [key for key in keys if not any(isinstance(step.get(key), (dict, list)) for step in steps)]
    if not keys:
        return None
    stride = -(-len(steps) // STEP_ROWS)
    shown = [step for index, step in enumerate(steps) if index % stride == 0 or index == len(steps) - 1]
    head = make("tr", *(make("th", key.replace("_", " "), scope="col") for key in keys))
    body = make("tbody")
    for step in shown:
        add(body, make("tr", *(make("td", _step_text(key, step.get(key))) for key in keys)))
    table = make("table", make("thead", head), body)
    return make("div", table, class_="scroll", tabindex=0, role="region", aria_label="Steps")


def _sets(metrics: Mapping) -> Element:
    """Loss, perplexity and accuracy on each set of records that was measured."""
    headings = ("records", "loss, nats", "perplexity", "accuracy")
    head = make("tr", *(make("th", words, scope="col") for words in headings))
    body = make("tbody")
    for key, words in (("forget", "forgotten"), ("retain", "retained"), ("held_out", "held out")):
        found = metrics[key]
        if found is not None:
            perplexity = _value_text(found["perplexity"])
            cells = (_value_text(found["loss"]), perplexity, share_text(found["accuracy"]))
            add(body, make("tr", make("th", words, scope="row"), *(make("td", cell) for cell in cells)))
    table = make("table", make("thead", head), body)
    return make("div", table, class_="scroll", tabindex=0, role="region", aria_label="Loss and accuracy")


def _run_details(title: str, item: dict, kind: str) -> Element:
    facts = f"{kind}; {count_text(item['gradients'])} gradients, {seconds_text(item['seconds'])}"
    node = make("details", make("summary", make("strong", title), f" – {facts}"))
    if item["stopped"]:
        add(node, make("p", f"Stopped: {item['stopped']}"))
    add(node, _sets(item["metrics"]), _pairs(item["settings"]))
    if item["steps"]:
        add(node, make("h3", f"{len(item['steps'])} steps"), _steps(item["steps"]))
    return node


def _runs(document: dict, verdict: Verdict) -> list[Element]:
    parts = [_run_details("original", document["original"], "before unlearning")]
    if document["reference"] is not None:
        parts.append(_run_details("retrained", document["reference"], "without the forgotten data"))
    for index, name in enumerate(verdict.ranking):
        item = document["methods"][name]
        kind = "first-order" if is_first_order(name, item) else "second-order"
        parts.append(_run_details(f"{letter(index)}  {item['label']}", item, f"{name}, {kind}"))
    return parts


def _figure(document: dict, verdict: Verdict) -> Element:
    plots = [frontier_svg(document, verdict, narrow=narrow) for narrow in (False, True)]
    if plots[0] is None:
        return make("p", _words.NO_PLOT, class_="note")
    caption = _words.caption(document, verdict)
    return make("figure", *plots, make("figcaption", caption))


def _section(heading: str, *children: Element | None) -> Element:
    return make("section", make("h2", heading), *children)


def report_html(document: dict) -> str:
    """The page for ``document`` (see :func:`fastunlearn.audit.document.build_document`), as text.

    Raises InvalidInputError where the document is not valid.
    """
    validate(document)
    verdict = judge(document)
    seed = "" if document["seed"] is None else f", seed {document['seed']}"
    reading = make("dl", class_="reading")
    for name, words in _words.READING:
        add(reading, make("dt", name), make("dd", words))
    limits = [*document["notes"], *_words.LIMITS]
    body = make(
        "body",
        make(
            "main",
            make(
                "header",
                make("h1", document["title"]),
                make("p", f"{document['created']}{seed}", class_="meta"),
            ),
            make("p", verdict.text, class_="verdict"),
            _figure(document, verdict),
            _section(
                "Results",
                make("p", "The table moves sideways.", class_="note hint"),
                result_table(document, verdict),
                make("p", _words.TABLE, class_="note"),
            ),
            _section("What was run", _pairs(document["settings"]), *_runs(document, verdict)),
            _section("Data", _pairs(document["data"])),
            _section("Model", _pairs(document["model"])),
            _section("How to read the numbers", reading),
            _section("Notes and limits", make("ul", *(make("li", words) for words in limits))),
            _section(
                "Versions and machine",
                make("h3", "Versions"),
                _pairs(document["versions"]),
                make("h3", "Machine"),
                _pairs(document["machine"]),
            ),
        ),
    )
    head = make(
        "head",
        make("meta", charset="utf-8"),
        make("meta", name="viewport", content="width=device-width, initial-scale=1"),
        make("title", document["title"]),
        make("style", STYLE),
    )
    return f"<!DOCTYPE html>\n{write(make('html', head, body, lang='en'))}\n"


def write_report(document: dict, folder: str | os.PathLike) -> tuple[Path, Path]:
    """Write ``report.json`` and ``report.html`` into ``folder`` (made where missing); their paths.

    Each file appears whole or not at all; where the second cannot be written, the first is as it was before.
    Raises InvalidInputError for a document that is not valid, OutputError where writing fails.
    """
    page = report_html(document)
    data_path, page_path = Path(folder) / "report.json", Path(folder) / "report.html"
    before = data_path.read_text(encoding="utf-8") if data_path.is_file() else None
    write_json(data_path, document)
    try:
        write_text(page_path, page)
    except OutputError:
        if before is None:
            data_path.unlink(missing_ok=True)
        else:
            write_text(data_path, before)
        raise
    return data_path, page_path
