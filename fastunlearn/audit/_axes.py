"""The axes of the frontier plot: the area, the scales, the ticks and the part where enough is forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fastunlearn.audit._markup import Element, make
from fastunlearn.audit._scale import Linear, Log, linear, log

Point = tuple[float, float]


@dataclass(frozen=True)
class Frame:
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


def points_with(items: Iterable[Mapping], key: str) -> list[Mapping]:
    return [item for item in items if item.get("forget_accuracy") is not None and item.get(key) is not None]


def make_frame(document: dict, width: float, height: float, column: float) -> Frame | None:
    """The axes, or None where there is nothing to put on them."""
    entries = [document["original"], *document["methods"].values()]
    key = "kl_retain" if document["reference"] is not None else "retain_accuracy"
    ends = points_with(entries, key)
    if not ends:
        return None
    points = ends + [
        point for item in ends for point in points_with([*item["steps"], *item["frontier"]], key)
    ]
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
    return Frame(left, top, right, bottom, across, up, key)


def draw_axes(frame: Frame, limit: float | None, w: Mapping) -> list[Element]:
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
        anchor = "start" if frame.right - x > 120 else "end"
        parts.append(
            make("text", w["enough"], x=x + (5 if anchor == "start" else -5), y=frame.top + 15, text_anchor=anchor)
        )
    return parts


def draw_titles(frame: Frame, width: float, w: Mapping) -> list[Element]:
    middle = (frame.left + frame.right) / 2
    up, better = (w["axis_kl"], w["closer"]) if frame.key == "kl_retain" else (w["axis_retained"], w["more_kept"])
    if width < 500 and frame.key == "kl_retain":
        up, better = w["axis_kl_short"], w["closer_short"]
    return [
        make("text", w["axis_up"].format(axis=up, better=better), x=8, y=16, class_="axis-title"),
        make(
            "text",
            w["axis_forgotten"],
            x=max(middle, 160) if width < 500 else middle,
            y=frame.bottom + 40,
            text_anchor="middle",
            class_="axis-title",
        ),
    ]
