"""The frontier plot as inline SVG: how much was forgotten against how far the model is from retraining."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fastunlearn.audit._marks import cross, free_place, mark, spread, star
from fastunlearn.audit._markup import Element, add, make
from fastunlearn.audit._scale import Linear, Log, linear, log
from fastunlearn.audit.document import is_first_order
from fastunlearn.audit.verdict import Verdict, kl_text, share_text

__all__ = ["frontier_svg", "letter"]

Point = tuple[float, float]


def letter(index: int) -> str:
    """A, B, ... Z, AA, AB, ...: how the table and the plot name the ``index``-th method."""
    return ("" if index < 26 else letter(index // 26 - 1)) + chr(ord("A") + index % 26)


@dataclass(frozen=True)
class _Frame:
    """The plot's axes: the area in pixels and the scales."""

    left: float
    top: float
    right: float
    bottom: float
    x: Linear
    y: Log | Linear
    key: str

    def at(self, point: Mapping) -> Point:
        return self.x(point["forget_accuracy"]), self.y(point[self.key])


def _points(items: Iterable[Mapping], key: str) -> list[Mapping]:
    return [item for item in items if item.get("forget_accuracy") is not None and item.get(key) is not None]


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _axes(frame: _Frame, limit: float | None) -> list[Element]:
    parts = []
    wide = frame.right - frame.left > 400
    for value in frame.x.ticks(0.1 if wide and frame.x.high - frame.x.low < 0.75 else 0.2):
        x = frame.x(value)
        parts.append(make("line", x1=x, x2=x, y1=frame.top, y2=frame.bottom, class_="grid"))
        parts.append(make("text", f"{100 * value:.0f}%", x=x, y=frame.bottom + 18, text_anchor="middle"))
    log_axis = isinstance(frame.y, Log)
    for value in frame.y.ticks() if log_axis else frame.y.ticks(0.1):
        y = frame.y(value)
        parts.append(make("line", x1=frame.left, x2=frame.right, y1=y, y2=y, class_="grid"))
        words = f"{value:g}" if log_axis else f"{100 * value:.0f}%"
        parts.append(make("text", words, x=frame.left - 7, y=y + 4.5, text_anchor="end"))
    if log_axis:
        y = frame.y.floor
        parts.append(make("line", x1=frame.left, x2=frame.right, y1=y, y2=y, class_="axis"))
        parts.append(make("text", "0", x=frame.left - 7, y=y + 4.5, text_anchor="end"))
        # Two strokes across the axis: a logarithmic scale never gets to 0.
        gap = (frame.y.start + y) / 2
        for shift in (-3, 3):
            parts.append(
                make(
                    "line",
                    x1=frame.left - 6,
                    x2=frame.left + 6,
                    y1=gap + shift + 3,
                    y2=gap + shift - 3,
                    class_="axis",
                )
            )
    if limit is not None and frame.x.low <= limit <= frame.x.high:
        x = frame.x(limit)
        parts.append(
            make(
                "rect",
                x=x,
                y=frame.top,
                width=frame.right - x,
                height=frame.bottom - frame.top,
                class_="goal",
            )
        )
        words, anchor = ("forgot enough →", "start") if frame.right - x > 120 else ("forgot enough →", "end")
        parts.append(
            make("text", words, x=x + (5 if anchor == "start" else -5), y=frame.top + 15, text_anchor=anchor)
        )
    return parts


def _titles(frame: _Frame, width: float) -> list[Element]:
    middle = (frame.left + frame.right) / 2
    up = "KL to retrained on retained data, nats" if frame.key == "kl_retain" else "Accuracy on retained data"
    better = "↓ closer to retraining" if frame.key == "kl_retain" else "↑ more is kept"
    if width < 500 and frame.key == "kl_retain":
        up, better = "KL to retrained, retained data", "↓ closer"
    return [
        make("text", f"{up} ({better})", x=8, y=16, class_="axis-title"),
        make(
            "text",
            "Accuracy on forgotten data (→ more forgotten)",
            x=max(middle, 160) if width < 500 else middle,
            y=frame.bottom + 40,
            text_anchor="middle",
            class_="axis-title",
        ),
    ]


def _path(frame: _Frame, start: Mapping, item: Mapping, kind: str) -> list[Element]:
    """The way of a method from the original model to its end, and what other settings gave."""
    way = [frame.at(point) for point in _points([start, *item["steps"], item], frame.key)]
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in way)
    dots = [frame.at(point) for point in _points([*item["steps"], *item["frontier"]], frame.key)]
    return [
        make("polyline", points=text, class_=f"way {kind}"),
        *(make("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=2.2, class_=f"dot {kind}") for x, y in dots),
    ]


def _model_label(frame: _Frame, words: str, at: Point, taken: list[Point], character: float) -> Element:
    x, y = at
    places = [
        (x + 13, y + 4.5, "start"),
        (x - 13, y + 4.5, "end"),
        (x, y - 13, "middle"),
        (x, y + 22, "middle"),
        (x + 13, y - 13, "start"),
        (x - 13, y - 13, "end"),
    ]
    width = len(words) * character
    inside = []
    for place in places:
        left = place[0] - {"start": 0.0, "middle": width / 2, "end": width}[place[2]]
        if left >= frame.left and left + width <= frame.right and frame.top < place[1] < frame.bottom:
            inside.append(place)
    px, py, anchor = free_place(inside or places, width, 14, taken)
    return make("text", words, x=f"{px:.1f}", y=f"{py:.1f}", text_anchor=anchor, class_="model-label")


def _frame(document: dict, width: float, height: float, column: float) -> _Frame | None:
    """The axes, or None where there is nothing to put on them."""
    entries = [document["original"], *document["methods"].values()]
    key = "kl_retain" if document["reference"] is not None else "retain_accuracy"
    ends = _points(entries, key)
    if not ends:
        return None
    points = ends + [point for item in ends for point in _points([*item["steps"], *item["frontier"]], key)]
    left, top, right, bottom = 62.0, 30.0, width - column, height - 52.0
    shares = [point["forget_accuracy"] for point in points]
    if document["reference"] is not None:
        shares.append(document["reference"]["forget_accuracy"])
    across = linear(shares, right - 16, left + 16)
    values = [point[key] for point in points]
    floor = bottom - 18
    up = (
        log(values, floor - 34, top + 8, floor)
        if key == "kl_retain"
        else linear(values, bottom - 10, top + 10)
    )
    return _Frame(left, top, right, bottom, across, up, key)


def _describe(document: dict, verdict: Verdict, key: str) -> str:
    parts = [verdict.text]
    for name in verdict.ranking:
        item = document["methods"][name]
        if item[key] is not None:
            value = f"KL {kl_text(item[key])}" if key == "kl_retain" else f"retained {share_text(item[key])}"
            parts.append(f"{item['label']}: forget accuracy {share_text(item['forget_accuracy'])}, {value}.")
    return " ".join(parts)


def frontier_svg(document: dict, verdict: Verdict, *, narrow: bool = False) -> Element | None:
    """The plot, or None where nothing can be plotted (no end point with a KL or a retain accuracy).

    Across: forget accuracy, falling to the right. Up: KL to the retrained model on retained data, logarithmic
    with 0 set apart; without a retrained model the accuracy on retained data. ``narrow`` is for screens of a
    phone's width: letters in the plot, and their names below it.
    """
    width, column = (380.0, 34.0) if narrow else (900.0, 250.0)
    count = len(document["methods"])
    height = max(400.0 if narrow else 470.0, 20.0 * count + 90)
    frame = _frame(document, width, height, column)
    if frame is None:
        return None
    key = frame.key
    total = height + (22.0 * count + 8 if narrow else 0)
    suffix = "narrow" if narrow else "wide"
    svg = make(
        "svg",
        make("title", "Forgetting against distance to the retrained model", id=f"plot-title-{suffix}"),
        make("desc", _describe(document, verdict, key), id=f"plot-desc-{suffix}"),
        viewBox=f"0 0 {width:g} {total:g}",
        role="img",
        aria_labelledby=f"plot-title-{suffix} plot-desc-{suffix}",
        class_=f"plot {suffix}",
    )
    add(svg, *_axes(frame, verdict.limit), *_titles(frame, width))
    kinds = {
        name: "first" if is_first_order(name, item) else "second"
        for name, item in document["methods"].items()
    }
    shown = [name for name in verdict.ranking if document["methods"][name][key] is not None]
    ends = {name: frame.at(document["methods"][name]) for name in shown}
    for name in shown:
        add(svg, *_path(frame, document["original"], document["methods"][name], kinds[name]))
    add(svg, *_end_marks(verdict, ends, kinds, frame, document, narrow))
    add(svg, *_models(document, frame, list(ends.values()), 6.6 if narrow else 7.4))
    if narrow:
        add(svg, *_names_below(document, verdict, kinds, height))
    return svg


def _models(document: dict, frame: _Frame, taken: list[Point], character: float) -> list[Element]:
    """The original and the retrained model, with their labels."""
    parts: list[Element] = []
    if _points([document["original"]], frame.key):
        at = frame.at(document["original"])
        parts += [cross(*at, "model"), _model_label(frame, "original", at, taken, character)]
    reference = document["reference"]
    if reference is not None:
        at = frame.x(reference["forget_accuracy"]), frame.y(0.0)
        parts += [star(*at, "model filled"), _model_label(frame, "retrained", at, taken, character)]
    return parts


def _end_marks(verdict, ends, kinds, frame: _Frame, document: dict, narrow: bool) -> list[Element]:
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
