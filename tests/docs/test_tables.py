"""docs/metrics.md and docs/attacks.md are what the tables make of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastunlearn.audit.attacks import ATTACKS
from fastunlearn.audit.attacks.page import page as attacks_page
from fastunlearn.audit.metrics import METRICS
from fastunlearn.audit.metrics.page import page as metrics_page

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize(
    ("name", "page", "table"), [("metrics", metrics_page, METRICS), ("attacks", attacks_page, ATTACKS)]
)
def test_the_page_equals_the_table(name, page, table):
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    assert text == page(), f"run python -m fastunlearn.audit.{name}.page > docs/{name}.md"
    assert all(f"`{entry}`" in text for entry in table)


def test_every_metric_says_what_it_is():
    for name, metric in METRICS.items():
        assert name == metric.name and metric.definition and metric.range and metric.source
        assert metric.better in ("higher", "lower", "as the retrained model")


def test_every_attack_says_what_it_does():
    assert all(name == one.name and one.summary and one.measures and one.source for name, one in ATTACKS.items())
