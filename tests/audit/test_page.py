"""The page: well formed, self-contained, escaped; the plot's places; files whole or not at all."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser

import pytest

from fastunlearn.audit import html as page
from fastunlearn.audit._marks import free_place, mark, spread
from fastunlearn.audit._markup import write
from fastunlearn.audit._scale import linear, log
from fastunlearn.audit._table import bytes_text, seconds_text
from fastunlearn.audit.html import report_html, write_report
from fastunlearn.audit.plot import frontier_svg, letter
from fastunlearn.audit.verdict import judge
from fastunlearn.errors import InvalidInputError, OutputError

VOID = {"meta", "link", "br", "img", "hr", "input"}
HOSTILE = '<script>alert("x")</script>\'"&<img src=x onerror=alert(1)>\x00]]>-->'


class Reader(HTMLParser):
    """Collects tags and attributes and checks that every tag is closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.open, self.words = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def hostile(value):
    """``value`` with every string in it, and every key that is free, made hostile."""
    if isinstance(value, str):
        return value + HOSTILE
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return {key: hostile(item) for key, item in value.items()} if isinstance(value, dict) else value


def test_the_page_is_well_formed_and_loads_nothing(document):
    text = report_html(document)
    reader = Reader(text)
    assert not {"script", "link", "img", "iframe", "object", "image", "use"} & set(reader.tags)
    assert not [name for name, _ in reader.attributes if name in ("src", "href", "srcset", "style")]
    assert not re.search(r"https?:|url\(|@import", text)
    assert "certified" not in text.lower() and "Weights alone prove nothing" in text
    identifiers = [value for name, value in reader.attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))


def test_every_method_and_number_is_there(document):
    words = " ".join(Reader(report_html(document)).words)
    for item in document["methods"].values():
        assert item["label"] in words
    for number in ("0.0172", "96.8\u202f%", "0.46–0.57", "1\u202f206", "392 MiB", "3 min 7 s"):
        assert number in words
    assert judge(document).text in words


def test_hostile_text_stays_text(document):
    document["methods"] = {name + HOSTILE: hostile(item) for name, item in document["methods"].items()}
    for key in ("title", "created", "original", "reference", "notes"):
        document[key] = hostile(document[key])
    for key in ("versions", "machine", "data", "model"):
        document[key] = {HOSTILE: hostile(document[key])}
    document["methods"]["npo" + HOSTILE]["steps"][0][HOSTILE] = HOSTILE
    text = report_html(document)
    reader = Reader(text)
    assert not {"script", "img"} & set(reader.tags)
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert "\x00" not in text and "&lt;script&gt;" in text
    assert '<script>alert("x")</script>' in "".join(reader.words)


def test_what_was_not_measured_shows_as_a_dash(document):
    document["reference"] = None
    for item in [document["original"], *document["methods"].values()]:
        for key in ("retain_accuracy", "held_out_accuracy", "kl_retain", "kl_forget", "peak_bytes"):
            item[key] = None
        for key in ("retain", "held_out", "membership", "exposure_forget", "exposure_retain"):
            item["metrics"][key] = None
    reader = Reader(report_html(document))
    assert "svg" not in reader.tags and reader.words.count("–") >= 8 * len(document["methods"])


def test_without_a_reference_the_plot_shows_retained_accuracy(document):
    document["reference"] = None
    for item in [document["original"], *document["methods"].values()]:
        item["kl_retain"] = None
    svg = write(frontier_svg(document, judge(document)))
    assert "Accuracy on retained data" in svg and "retrained</text>" not in svg


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("methods", [1, 8, 30])
def test_labels_do_not_overlap_and_marks_lie_inside(document, narrow, methods):
    first = list(document["methods"].values())
    document["methods"] = {f"m{index}": dict(first[index % len(first)]) for index in range(methods)}
    svg = frontier_svg(document, judge(document), narrow=narrow)
    assert [child.tag for child in svg][:2] == ["title", "desc"]
    width, height = (float(part) for part in svg.get("viewBox").split()[2:])
    names = [node for node in svg.iter("text") if node.get("class") == "name"]
    column = [node for node in names if float(node.get("x")) > width / 2]
    heights = sorted(float(node.get("y")) for node in column)
    assert len(column) == methods
    assert all(b - a >= 19 for a, b in itertools.pairwise(heights))
    for node in svg.iter("text"):
        assert 0 <= float(node.get("x")) <= width and 0 <= float(node.get("y")) <= height


def test_greyscale_kinds_differ_in_shape_and_line(document):
    svg = frontier_svg(document, judge(document))
    shapes = {(n.tag, len((n.get("points") or "").split()), n.get("class")) for n in svg.iter()
              if (n.get("class") or "").startswith("mark")}  # fmt: skip
    assert len(shapes) >= 6
    assert {"way first", "way second"} <= {n.get("class") for n in svg.iter("polyline")}


def test_forgetting_goes_right_and_nearer_is_lower():
    across = linear([0.05, 0.98], 500, 60)
    assert (across.low, across.high) == (0.0, 1.0) and across(0.05) > across(0.98)
    up = log([0.02, 3.0], 300, 40, 330)
    assert (up.low, up.high) == (-2, 1) and up(0.0) == 330 > up(0.02) > up(3.0) > 40
    assert up(0.1) - up(1.0) == pytest.approx(up(0.01) - up(0.1))
    tiny = log([1e-12, 1.0], 300, 40, 330)
    assert tiny.low == -6 and tiny(1e-12) == 330
    assert log([0.0], 300, 40, 330).ticks() == pytest.approx([1.0, 2.0])
    assert log([0.0165, 0.021], 300, 40, 330).ticks() == pytest.approx([0.01, 0.02, 0.05])
    assert log([0.1, 1.0], 300, 40, 330)(0.1) == pytest.approx(300)
    assert linear([0.5], 0, 1).ticks(0.1) == pytest.approx([0.4, 0.5, 0.6])


def test_spreading_keeps_order_gap_and_bounds():
    assert spread([10.0, 11.0, 12.0, 90.0], 20, 0, 100) == [10.0, 30.0, 50.0, 90.0]
    assert spread([98.0, 99.0], 20, 0, 100) == [80.0, 100.0]
    assert free_place([(0, 0, "start"), (100, 0, "start")], 40, 10, [(10.0, -5.0)])[0] == 100


def test_texts():
    assert [letter(index) for index in (0, 25, 26, 701)] == ["A", "Z", "AA", "ZZ"]
    assert [seconds_text(s) for s in (0.42, 12.3, 59.7, 185, 7440)] == (
        ["0.42 s", "12 s", "1 min 0 s", "3 min 5 s", "2 h 4 min"]
    )
    sizes = [bytes_text(size) for size in (None, 1 << 20, 410_000_000, 3 << 30)]
    assert sizes == ["–", "1.0 MiB", "391 MiB", "3.00 GiB"]


def test_written_files_and_their_content(document, tmp_path):
    data, html = write_report(document, tmp_path / "new" / "run")
    assert json.loads(data.read_text(encoding="utf-8")) == document
    assert html.read_text(encoding="utf-8") == report_html(document)
    assert sorted(path.name for path in data.parent.iterdir()) == ["report.html", "report.json"]


def test_a_failure_leaves_files_as_they_were(document, tmp_path, monkeypatch):
    write_report(document, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InvalidInputError):
        write_report({**document, "seed": "x"}, tmp_path)

    def full(path, text):
        raise OutputError("no space")

    original = page.write_text

    def first_only(path, text):
        (full if path.suffix == ".html" else original)(path, text)

    monkeypatch.setattr(page, "write_text", first_only)
    with pytest.raises(OutputError, match="no space"):
        write_report({**document, "title": "other"}, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(OutputError, match="no space"):
        write_report(document, tmp_path / "fresh")
    assert not list((tmp_path / "fresh").iterdir())


def test_loss_and_perplexity_of_each_set_are_in_the_details(document):
    found = document["methods"]["fisher-removal"]["metrics"]
    found["forget"] |= {"loss": 6.5432, "perplexity": None}
    found["retain"] |= {"loss": 0.0123, "perplexity": 1.0124}
    page = report_html(document)
    assert "6.543" in page and "0.0123" in page and "1.012" in page and "perplexity" in page


def test_a_dozen_methods_have_marks_of_their_own():
    assert len({write(mark(index, 50.0, 50.0, "mark")) for index in range(12)}) == 12


@pytest.mark.parametrize(("lang", "kind", "caption"), [("en", "how it was made is not recorded", "Grey marks"),
                                                       ("ja", "作成方法の記録なし", "灰色の印")])  # fmt: skip
def test_a_model_of_an_unknown_kind_is_called_neither(document, lang, kind, caption):
    assert kind not in report_html(document, lang) and caption not in report_html(document, lang)
    document["methods"]["npo"]["first_order"] = None
    text = report_html(document, lang)
    assert text.count(kind) == 1 and caption in text
    classes = [value for name, value in Reader(text).attributes if name == "class"]
    assert {"mark unknown", "way unknown"} <= set(classes)


def test_a_number_of_records_that_is_none_is_left_out(document):
    for item in document["methods"].values():
        item["metrics"]["forget"]["samples"] = "many"
    assert "Records to forget: –" in report_html(document)


def test_a_file_from_elsewhere_is_put_back_to_the_byte(document, tmp_path, monkeypatch):
    (tmp_path / "report.json").write_bytes(b"\xff\xfe no UTF-8\r\n")

    def full(path, text):
        raise OutputError("no space")

    monkeypatch.setattr(page, "write_text", full)
    with pytest.raises(OutputError, match="no space"):
        write_report(document, tmp_path)
    assert (tmp_path / "report.json").read_bytes() == b"\xff\xfe no UTF-8\r\n"
