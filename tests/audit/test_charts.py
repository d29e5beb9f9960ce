"""The small charts: well-formed, to scale, and safe against what is written into them."""

from xml.etree import ElementTree

import pytest

from fastunlearn.audit.charts import Bars, Line, bar_chart, line_chart, step_of
from fastunlearn.errors import InvalidInputError

SVG = "{http://www.w3.org/2000/svg}"


def texts(root):
    return [node.text for node in root.iter(f"{SVG}text")]


def test_bars_are_to_scale_on_both_sides_of_zero():
    root = ElementTree.fromstring(bar_chart(Bars(["a", "b <i>", "c"], [4.0, -2.0, 1.0]), title="T", axis="nats"))
    widths = [float(node.get("width")) for node in root.iter(f"{SVG}rect")]
    assert widths[0] == pytest.approx(4 * widths[2], abs=0.3) and widths[1] == pytest.approx(2 * widths[2], abs=0.3)
    ends = [float(node.get("x")) + float(node.get("width")) for node in root.iter(f"{SVG}rect")]
    assert ends[1] == pytest.approx(float(next(root.iter(f"{SVG}rect")).get("x")), abs=0.2)
    assert {"b <i>", "-2", "nats", "T"} <= set(texts(root))


@pytest.mark.parametrize("log_y", [False, True])
def test_lines_go_through_their_points(log_y):
    chart = line_chart([Line("one", [0, 1, 2], [1, 10, 100])], title="T", x_axis="x", y_axis="y", log_y=log_y)
    root = ElementTree.fromstring(chart)
    points = [tuple(map(float, p.split(","))) for p in next(root.iter(f"{SVG}polyline")).get("points").split()]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and y0 > y1 > y2
    if log_y:
        assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    else:
        assert (y0 - y1) * 10 == pytest.approx(y1 - y2, rel=0.02)
    assert {"one", "x", "y"} <= set(texts(root))


def test_flat_and_single_values_have_axes():
    for x, y in (([0.0, 1.0], [3.0, 3.0]), ([5.0], [0.0]), ([0, 1], [1e-9, 2e-9])):
        ElementTree.fromstring(line_chart([Line("flat", x, y)], title="T", x_axis="x", y_axis="y"))
    ElementTree.fromstring(bar_chart(Bars(["none"], [0.0]), title="T", axis="x"))


@pytest.mark.parametrize("span", [(0, 1), (0, 7), (-3e-5, 2e-5), (0, 4321)])
def test_there_are_a_handful_of_ticks(span):
    assert 2 <= (span[1] - span[0]) / step_of(*span) <= 7


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(InvalidInputError, match="finite"):
        line_chart([Line("a", [0], [float("nan")])], title="T", x_axis="x", y_axis="y")
    with pytest.raises(InvalidInputError, match="lines"):
        line_chart([], title="T", x_axis="x", y_axis="y")
    with pytest.raises(InvalidInputError, match="2 numbers x"):
        line_chart([Line("a", [0, 1], [1])], title="T", x_axis="x", y_axis="y")
    with pytest.raises(InvalidInputError, match="names"):
        bar_chart(Bars(["a"], [1.0, 2.0]), title="T", axis="x")
