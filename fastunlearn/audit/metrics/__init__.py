"""Metrics of forgetting and of what is kept: METRICS, the table, and ``evaluate_metrics``. See docs/metrics.md."""

from fastunlearn.audit.metrics.evaluate import evaluate_metrics, missing_needs
from fastunlearn.audit.metrics.measured import MeasuredModel, Measurement
from fastunlearn.audit.metrics.registry import METRICS, Metric

__all__ = ["METRICS", "MeasuredModel", "Measurement", "Metric", "evaluate_metrics", "missing_needs"]
