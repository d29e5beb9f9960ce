"""The report as one self-contained HTML page: nothing is loaded from elsewhere, everything is escaped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from fastunlearn.audit._decision import decision, model_card
from fastunlearn.audit._further import attack_table, metric_table
from fastunlearn.audit._markup import Element, add, make, write
from fastunlearn.audit._style import STYLE
from fastunlearn.audit._table import bytes_text, count_text, result_table, seconds_text
from fastunlearn.audit._words import words
from fastunlearn.audit.document import is_first_order, validate
from fastunlearn.audit.plot import frontier_svg, letter
from fastunlearn.audit.verdict import Verdict, judge, kl_text, share_text
from fastunlearn.errors import OutputError
from fastunlearn.storage.files import staged_file, write_json, write_text

__all__ = ["report_html", "write_report"]

#: Rows of a method's table of steps; a longer way is thinned out (report.json has all of it).
STEP_ROWS = 40


def _value_text(value: object, w: Mapping) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return w["yes"] if value else w["no"]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_value_text(item, w) for item in value) or "–"
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_value_text(item, w)}" for key, item in value.items()) or "–"
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


def _pairs(values: Mapping, w: Mapping) -> Element:
    pairs = make("dl", class_="pairs")
    for name, value in _flat(values):
        text = bytes_text(value) if name.endswith("bytes") and isinstance(value, int) else _value_text(value, w)
        add(pairs, make("dt", name), make("dd", text))
    return pairs if len(pairs) else make("p", w["nothing_recorded"], class_="note")


def _step_text(key: str, value: object, w: Mapping) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if key.endswith("accuracy"):
            return share_text(value)
        if key.startswith("kl_") and value >= 0:
            return kl_text(value)
    return _value_text(value, w)


def _steps(steps: list[dict], w: Mapping) -> Element | None:
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
        add(body, make("tr", *(make("td", _step_text(key, step.get(key), w)) for key in keys)))
    table = make("table", make("thead", head), body)
    return make("div", table, class_="scroll", tabindex=0, role="region", aria_label=w["aria_steps"])


def _sets(metrics: Mapping, w: Mapping) -> Element:
    """Loss, perplexity and accuracy on each set of records that was measured."""
    head = make("tr", *(make("th", w[key], scope="col") for key in ("records", "loss", "perplexity", "accuracy")))
    body = make("tbody")
    for key, name in (("forget", "forgotten"), ("retain", "retained"), ("held_out", "held_out")):
        found = metrics[key]
        if found is not None:
            perplexity = _value_text(found["perplexity"], w)
            cells = (_value_text(found["loss"], w), perplexity, share_text(found["accuracy"]))
            add(body, make("tr", make("th", w[name], scope="row"), *(make("td", cell) for cell in cells)))
    table = make("table", make("thead", head), body)
    return make("div", table, class_="scroll", tabindex=0, role="region", aria_label=w["aria_sets"])


def _run_details(title: str, item: dict, kind: str, w: Mapping) -> Element:
    time = seconds_text(item["seconds"], w)
    facts = w["run_facts"].format(kind=kind, gradients=count_text(item["gradients"]), time=time)
    node = make("details", make("summary", make("strong", title), f" – {facts}"))
    if item["stopped"]:
        add(node, make("p", w["stopped"].format(item["stopped"])))
    add(node, _sets(item["metrics"], w), _pairs(item["settings"], w))
    if item["steps"]:
        add(node, make("h3", w["steps"].format(len(item["steps"]))), _steps(item["steps"], w))
    return node


def _runs(document: dict, verdict: Verdict, w: Mapping) -> list[Element]:
    parts = [_run_details(w["original"], document["original"], w["before_unlearning"], w)]
    if document["reference"] is not None:
        parts.append(_run_details(w["retrained"], document["reference"], w["without_forgotten"], w))
    for index, name in enumerate(verdict.ranking):
        item = document["methods"][name]
        first = is_first_order(name, item)
        kind = w["kind_unknown"] if first is None else w["first_order"] if first else w["second_order"]
        parts.append(_run_details(f"{letter(index)}  {item['label']}", item, f"{name}{w['and']}{kind}", w))
    return parts


def _figure(document: dict, verdict: Verdict, w: Mapping) -> Element:
    plots = [frontier_svg(document, verdict, narrow=narrow, w=w) for narrow in (False, True)]
    if plots[0] is None:
        return make("p", w["no_plot"], class_="note")
    caption = w["caption"]
    if any(is_first_order(name, item) is None for name, item in document["methods"].items()):
        caption += w["caption_unknown"]
    if document["reference"] is not None:
        caption += w["caption_reference"]
    if verdict.limit is not None:
        caption += w["caption_limit"].format(share_text(verdict.limit))
    return make("figure", *plots, make("figcaption", caption))


def _section(heading: str, *children: Element | None) -> Element:
    return make("section", make("h2", heading), *children)


def _further(name: str, table: Element | None, w: Mapping) -> Element | None:
    return None if table is None else _section(w[name], table, make("p", w[f"{name}_note"], class_="note"))


def report_html(document: dict, lang: str = "en") -> str:
    """The page for ``document`` (see :func:`fastunlearn.audit.document.build_document`), as text. ``lang``: "en" or
    "ja", of all words but those that the document brings (titles, notes, names of settings).

    Raises InvalidInputError where the document is not valid, and for another language.
    """
    w = words(lang)
    validate(document)
    verdict = judge(document, w)
    seed = "" if document["seed"] is None else w["and"] + w["seed"].format(document["seed"])
    reading = make("dl", class_="reading")
    for name, text in w["reading"]:
        add(reading, make("dt", name), make("dd", text))
    notes = None
    if document["notes"]:
        notes = _section(w["notes"], make("ul", *(make("li", text) for text in document["notes"])))
    main = make(
        "main",
        make("header", make("h1", document["title"]), make("p", f"{document['created']}{seed}", class_="meta")),
        decision(document, verdict, w),
        _figure(document, verdict, w),
        _section(
            w["results"],
            make("p", w["sideways"], class_="note hint"),
            result_table(document, verdict, w),
            make("p", w["table"], class_="note"),
        ),
        _further("more_metrics", metric_table(document, verdict, w), w),
        _further("attacks", attack_table(document, verdict, w), w),
        notes,
        _section(
            w["what_was_run"],
            _pairs(document["settings"], w) if document["settings"] else None,
            *_runs(document, verdict, w),
        ),
        _section(w["data"], _pairs(document["data"], w)),
        _section(w["model"], _pairs(document["model"], w)),
        _section(w["how_to_read"], reading),
        model_card(document, verdict, w),
        _section(
            w["versions_and_machine"],
            make("h3", w["versions"]),
            _pairs(document["versions"], w),
            make("h3", w["machine"]),
            _pairs(document["machine"], w),
        ),
    )
    head = make(
        "head",
        make("meta", charset="utf-8"),
        make("meta", name="viewport", content="width=device-width, initial-scale=1"),
        make("title", document["title"]),
        make("style", STYLE),
    )
    return f"<!DOCTYPE html>\n{write(make('html', head, make('body', main), lang=lang))}\n"


def write_report(document: dict, folder: str | os.PathLike, *, lang: str = "en") -> tuple[Path, Path]:
    """Write ``report.json`` and ``report.html`` into ``folder`` (made where missing); their paths.

    Each file appears whole or not at all; where the second cannot be written, the first is as it was before.
    Raises InvalidInputError for a document that is not valid, OutputError where writing fails.
    """
    page = report_html(document, lang)
    data_path, page_path = Path(folder) / "report.json", Path(folder) / "report.html"
    before = data_path.read_bytes() if data_path.is_file() else None
    write_json(data_path, document)
    try:
        write_text(page_path, page)
    except OutputError:
        if before is None:
            data_path.unlink(missing_ok=True)
        else:
            with staged_file(data_path, needed=len(before)) as file:
                file.write_bytes(before)
        raise
    return data_path, page_path
