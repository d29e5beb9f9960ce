"""docs/metrics.md is what the table makes of it."""

from __future__ import annotations

from pathlib import Path

from fastunlearn.audit.metrics import METRICS
from fastunlearn.audit.metrics.page import page

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_of_metrics_equals_the_table():
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    assert text == page(), "run python -m fastunlearn.audit.metrics.page > docs/metrics.md"
    assert all(f"`{name}`" in text for name in METRICS)


def test_every_metric_says_what_it_is():
    for name, metric in METRICS.items():
        assert name == metric.name and metric.definition and metric.range and metric.source
        assert metric.better in ("higher", "lower", "as the retrained model")
