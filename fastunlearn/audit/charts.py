"""Small charts as whole SVG files, of lines or of bars: for spectra, influence scores and benchmarks.

They need no other package, read in the dark, and carry their numbers as titles of the marks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fastunlearn.audit._markup import Element, add, make, write
from fastunlearn.audit._scale import Linear, Log, log
from fastunlearn.errors import InvalidInputError

__all__ = ["Bars", "Line", "bar_chart", "line_chart", "step_of"]

WIDTH, LEFT, TOP = 720.0, 84.0, 44.0
ROW = 24.0
STYLE = """
svg { color-scheme: light dark; font: 13px system-ui, sans-serif; --ink: #1c2126; --soft: #59636e; --line: #d5dae0;
  --c0: #174a8c; --c1: #b85406; --c2: #1a7f37; --c3: #7a3e9d; background: #fff; }
@media (prefers-color-scheme: dark) { svg { --ink: #e6e9ed; --soft: #a4adb8; --line: #3c444d; --c0: #8db9f7;
  --c1: #ffad66; --c2: #56d364; --c3: #d2a8ff; background: #15191e; } }
text { fill: var(--soft); } .title { fill: var(--ink); font-size: 15px; font-weight: 600; } .name { fill: var(--ink); }
.grid { stroke: var(--line); } .axis { stroke: var(--soft); }
.line { fill: none; stroke-width: 2; } .c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); stroke-dasharray: 6 3; }
.c2 { stroke: var(--c2); stroke-dasharray: 2 3; } .c3 { stroke: var(--c3); stroke-dasharray: 8 3 2 3; }
.bar { fill: var(--c0); } .bar.down { fill: var(--c1); }
"""


@dataclass(frozen=True)
class Line:
    """A named line through points; ``x`` and ``y`` are of one length."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Bars:
    """A bar for each name."""

    names: Sequence[str]
    values: Sequence[float]


def step_of(low: float, high: float, ticks: int = 6) -> float:
    """The distance of about so many ticks: 1, 2 or 5 times a power of ten."""
    rough = (high - low) / ticks
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _range(values: Sequence[float], start: float, end: float) -> Linear:
    low, high = min(values), max(values)
    if high - low < 1e-12 * max(abs(low), abs(high), 1e-300):
        low, high = low - (abs(low) or 1.0), high + (abs(high) or 1.0)
    return Linear(low, high, start, end)


def _finite(values: Sequence[float], what: str) -> None:
    if not len(values) or not all(math.isfinite(v) for v in values):
        raise InvalidInputError(f"{what}: a chart needs at least one number, and only finite ones")


def _canvas(title: str, height: float) -> Element:
    return make(
        "svg", make("title", title), make("style", STYLE),
        make("text", title, x=LEFT, y=24, class_="title"),
        xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH:g} {height:g}", role="img",
    )  # fmt: skip


def line_chart(lines: Sequence[Line], *, title: str, x_axis: str, y_axis: str, log_y: bool = False) -> str:
    """Lines over one pair of axes as a whole SVG file. ``log_y``: a logarithmic scale upwards; values of 0 and below,
    and those below the highest six decades, lie on its floor. Raises InvalidInputError for numbers not finite."""
    for line in lines:
        _finite(line.x, "x")
        _finite(line.y, "y")
        if len(line.x) != len(line.y):
            raise InvalidInputError(f"{line.name}: {len(line.x)} numbers x and {len(line.y)} numbers y")
    if not lines:
        raise InvalidInputError("lines is empty: a chart needs at least one")
    height, right = 420.0 + 18 * len(lines), WIDTH - 20
    bottom = 360.0
    svg = _canvas(title, height)
    across = _range([v for line in lines for v in line.x], LEFT, right)
    ups = [v for line in lines for v in line.y]
    up: Linear | Log = log(ups, bottom, TOP, bottom) if log_y else _range(ups, bottom, TOP)
    step = step_of(across.low, across.high)
    for value in across.ticks(step):
        x = across(value)
        add(svg, make("line", x1=x, x2=x, y1=TOP, y2=bottom, class_="grid"),
            make("text", f"{_round(value, step):g}", x=f"{x:.1f}", y=bottom + 18, text_anchor="middle"))  # fmt: skip
    high = up.ticks() if isinstance(up, Log) else up.ticks(step_of(up.low, up.high))
    for value in high:
        y, shown = up(value), value if isinstance(up, Log) else _round(value, step_of(up.low, up.high))
        add(svg, make("line", x1=LEFT, x2=right, y1=y, y2=y, class_="grid"),
            make("text", f"{shown:g}", x=LEFT - 8, y=f"{y + 4.5:.1f}", text_anchor="end"))  # fmt: skip
    for i, line in enumerate(lines):
        points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in zip(line.x, line.y, strict=True))
        y = bottom + 58 + 18 * i
        add(svg, make("polyline", make("title", line.name), points=points, class_=f"line c{i % 4}"),
            make("line", x1=LEFT, x2=LEFT + 30, y1=y - 4, y2=y - 4, class_=f"line c{i % 4}"),
            make("text", line.name, x=LEFT + 38, y=y, class_="name"))  # fmt: skip
    add(svg, make("text", x_axis, x=(LEFT + right) / 2, y=bottom + 38, text_anchor="middle"),
        make("text", y_axis, x=16, y=(TOP + bottom) / 2, text_anchor="middle",
             transform=f"rotate(-90 16 {(TOP + bottom) / 2:g})"))  # fmt: skip
    return write(svg) + "\n"


def bar_chart(bars: Bars, *, title: str, axis: str) -> str:
    """Horizontal bars from 0, with their numbers, as a whole SVG file. Raises InvalidInputError for numbers not
    finite, or not one for each name."""
    _finite(bars.values, "values")
    if len(bars.names) != len(bars.values):
        raise InvalidInputError(f"bars: {len(bars.names)} names and {len(bars.values)} values")
    left = LEFT + 7.0 * max(len(name) for name in bars.names) - 40
    height, right = TOP + ROW * len(bars.names) + 44, WIDTH - 90
    svg = _canvas(title, height)
    scale = _range([0.0, *bars.values], left + (64 if min(bars.values) < 0 else 0), right)
    zero = scale(0.0)
    for i, (name, value) in enumerate(zip(bars.names, bars.values, strict=True)):
        y, end = TOP + ROW * i, scale(value)
        anchor, at = ("start", end + 5) if value >= 0 else ("end", end - 5)
        add(svg, make("text", name, x=left - 10, y=y + 15, text_anchor="end", class_="name"),
            make("rect", make("title", f"{name}: {value:.6g}"), x=f"{min(zero, end):.1f}", y=y + 3, height=ROW - 7,
                 width=f"{abs(end - zero):.1f}", class_="bar" if value >= 0 else "bar down"),
            make("text", f"{value:.3g}", x=f"{at:.1f}", y=y + 15, text_anchor=anchor))  # fmt: skip
    bottom = TOP + ROW * len(bars.names)
    add(svg, make("line", x1=zero, x2=zero, y1=TOP - 2, y2=bottom, class_="axis"),
        make("text", axis, x=(left + right) / 2, y=bottom + 26, text_anchor="middle"))  # fmt: skip
    return write(svg) + "\n"


def _round(value: float, step: float) -> float:
    """A tick's number without the noise of binary fractions."""
    return round(value, max(0, 2 - math.floor(math.log10(step)))) + 0.0
