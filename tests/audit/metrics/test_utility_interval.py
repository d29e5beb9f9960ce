"""The interval of the model utility: numbers of the same records are resampled together."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from fastunlearn.audit.metrics import measures
from fastunlearn.audit.metrics.measured import Measurement


class Fake:
    """A model of which the three numbers of each retained record are one and the same, ``shares``."""

    def __init__(self, shares):
        self.shares, self.variants = shares, {"retain": ["some"]}

    def answers(self, name):
        zeros = np.zeros(len(self.shares))
        return SimpleNamespace(right=zeros, own=zeros, wrong=[np.array([-np.log(1 - one)]) for one in self.shares])

    def statistics(self, name):
        return self


@pytest.fixture
def shares(monkeypatch):
    monkeypatch.setattr(measures, "rouge", lambda part: lambda model, name: model.rouge)
    monkeypatch.setattr(measures.memory, "probability", lambda scores: scores.shares)
    return np.random.default_rng(0).uniform(0.1, 0.9, 60)


def test_three_equal_numbers_of_a_record_are_as_uncertain_as_one(shares):
    model = Fake(shares)
    model.rouge = shares
    measurement = Measurement(model)
    alone = measurement.estimate(lambda rows: rows[:, 0].mean(), shares[:, None])
    assert measures.model_utility_of(measurement)["all"] == pytest.approx(alone)


def test_numbers_of_fewer_records_are_resampled_apart(shares):
    """Where not every record has wrong answers, its truth ratios are fewer than the other numbers."""
    model = Fake(shares)
    model.rouge = np.append(shares, 0.5)
    found = measures.model_utility_of(Measurement(model))["all"]
    assert found["value"] == pytest.approx(3 / (2 / shares.mean() + 1 / model.rouge.mean()))
    assert found["low"] < found["value"] < found["high"]
