"""The frontier plot as inline SVG: how much was forgotten against how far the model is from retraining."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

from fastunlearn.audit._axes import Frame, Point, draw_axes, draw_titles, make_frame, points_with
from fastunlearn.audit._marks import cross, free_place, mark, spread, star
from fastunlearn.audit._markup import Element, add, make
from fastunlearn.audit._words import EN
from fastunlearn.audit.document import is_first_order
from fastunlearn.audit.verdict import Verdict, kl_text, share_text

__all__ = ["frontier_svg", "letter"]


def letter(index: int) -> str:
    """A, B, ... Z, AA, AB, ...: how the table and the plot name the ``index``-th method."""
    return ("" if index < 26 else letter(index // 26 - 1)) + chr(ord("A") + index % 26)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _path(frame: Frame, start: Mapping, item: Mapping, kind: str) -> list[Element]:
    """The way of a method from the original model to its end, and what other settings gave."""
    way = [frame.at(point) for point in points_with([start, *item["steps"], item], frame.key)]
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in way)
    dots = [frame.at(point) for point in points_with([*item["steps"], *item["frontier"]], frame.key)]
    return [
        make("polyline", points=text, class_=f"way {kind}"),
        *(make("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=2.2, class_=f"dot {kind}") for x, y in dots),
    ]


def _model_label(frame: Frame, words: str, at: Point, taken: list[Point], character: float) -> Element:
    x, y = at
    places = [
        (x + 13, y + 4.5, "start"),
        (x - 13, y + 4.5, "end"),
        (x, y - 13, "middle"),
        (x, y + 22, "middle"),
        (x + 13, y - 13, "start"),
        (x - 13, y - 13, "end"),
    ]
    width = sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in words) * character
    inside = []
    for place in places:
        left = place[0] - {"start": 0.0, "middle": width / 2, "end": width}[place[2]]
        if left >= frame.left and left + width <= frame.right and frame.top < place[1] < frame.bottom:
            inside.append(place)
    px, py, anchor = free_place(inside or places, width, 14, taken)
    return make("text", words, x=f"{px:.1f}", y=f"{py:.1f}", text_anchor=anchor, class_="model-label")


def _describe(document: dict, verdict: Verdict, key: str, w: Mapping) -> str:
    parts = [verdict.text]
    for name in verdict.ranking:
        item = document["methods"][name]
        if item[key] is not None:
            value = w["plot_kl"].format(kl_text(item[key]))
            if key != "kl_retain":
                value = w["plot_retained"].format(share_text(item[key]))
            accuracy = share_text(item["forget_accuracy"])
            parts.append(w["plot_method"].format(label=item["label"], accuracy=accuracy, value=value))
    return " ".join(parts)


def frontier_svg(document: dict, verdict: Verdict, *, narrow: bool = False, w: Mapping = EN) -> Element | None:
    """The plot, or None where nothing can be plotted (no end point with a KL or a retain accuracy).

    Across: forget accuracy, falling to the right. Up: KL to the retrained model on retained data, logarithmic
    with 0 set apart; without a retrained model the accuracy on retained data. ``narrow`` is for screens of a
    phone's width: letters in the plot, and their names below it. ``w``: the words.
    """
    width, column = (380.0, 34.0) if narrow else (900.0, 250.0)
    count = len(document["methods"])
    height = max(400.0 if narrow else 470.0, 20.0 * count + 90)
    frame = make_frame(document, width, height, column)
    if frame is None:
        return None
    key = frame.key
    total = height + (22.0 * count + 8 if narrow else 0)
    suffix = "narrow" if narrow else "wide"
    svg = make(
        "svg",
        make("title", w["plot"], id=f"plot-title-{suffix}"),
        make("desc", _describe(document, verdict, key, w), id=f"plot-desc-{suffix}"),
        viewBox=f"0 0 {width:g} {total:g}",
        role="img",
        aria_labelledby=f"plot-title-{suffix} plot-desc-{suffix}",
        class_=f"plot {suffix}",
    )
    add(svg, *draw_axes(frame, verdict.limit, w), *draw_titles(frame, width, w))
    classes = {True: "first", False: "second", None: "unknown"}
    kinds = {name: classes[is_first_order(name, item)] for name, item in document["methods"].items()}
    shown = [name for name in verdict.ranking if document["methods"][name][key] is not None]
    ends = {name: frame.at(document["methods"][name]) for name in shown}
    for name in shown:
        add(svg, *_path(frame, document["original"], document["methods"][name], kinds[name]))
    add(svg, *_end_marks(verdict, ends, kinds, frame, document, narrow))
    add(svg, *_models(document, frame, list(ends.values()), 6.6 if narrow else 7.4, w))
    if narrow:
        add(svg, *_names_below(document, verdict, kinds, height))
    return svg


def _models(document: dict, frame: Frame, taken: list[Point], character: float, w: Mapping) -> list[Element]:
    """The original and the retrained model, with their labels."""
    parts: list[Element] = []
    if points_with([document["original"]], frame.key):
        at = frame.at(document["original"])
        parts += [cross(*at, "model"), _model_label(frame, w["original"], at, taken, character)]
    reference = document["reference"]
    if reference is not None:
        at = frame.x(reference["forget_accuracy"]), frame.y(0.0)
        parts += [star(*at, "model filled"), _model_label(frame, w["retrained"], at, taken, character)]
    return parts


def _end_marks(verdict, ends, kinds, frame: Frame, document: dict, narrow: bool) -> list[Element]:
    """The end points with a line from each to its name in the column at the right."""
    order = sorted(ends, key=lambda name: (ends[name][1], -ends[name][0]))
    heights = spread([ends[name][1] for name in order], 20.0, frame.top + 10, frame.bottom - 6)
    lines, marks, names = [], [], []
    for name, height in zip(order, heights, strict=True):
        index = verdict.ranking.index(name)
        x, y = ends[name]
        bend = frame.right + 8
        lines.append(make("polyline", points=f"{x:.1f},{y:.1f} {bend:.1f},{height:.1f}", class_="leader"))
        marks.append(mark(index, x, y, f"mark {kinds[name]}"))
        words = (
            letter(index) if narrow else _short(f"{letter(index)}  {document['methods'][name]['label']}", 32)
        )
        names.append(make("text", words, x=bend + 5, y=f"{height + 5:.1f}", class_="name"))
    return lines + marks + names


def _names_below(document: dict, verdict: Verdict, kinds: dict, height: float) -> list[Element]:
    parts = []
    for index, name in enumerate(verdict.ranking):
        y = height + 22.0 * index + 8
        words = _short(f"{letter(index)}  {document['methods'][name]['label']}", 44)
        parts += [
            mark(index, 20, y, f"mark {kinds[name]}"),
            make("text", words, x=36, y=y + 5, class_="name"),
        ]
    return parts
