"""The bench of influence scores: its score is that of the definition, and the page shows what was measured."""

from __future__ import annotations

import json

import pytest
import torch
from scipy.stats import spearmanr

from bench.influence import OUT, PAGE, score, sentences, table


def test_the_score_is_the_mean_rank_correlation():
    generator = torch.Generator().manual_seed(0)
    found = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    predicted = found + torch.randn(30, 3, generator=generator, dtype=torch.float64)
    result = score(predicted, found, resamples=200)
    truth = sum(spearmanr(predicted[:, j], found[:, j]).statistic for j in range(3)) / 3
    assert result["lds"] == pytest.approx(truth, abs=1e-12) and result["low"] < truth < result["high"]
    assert score(1e-12 * predicted, found, resamples=200) == pytest.approx(result, abs=1e-6)  # scale does not matter
    assert score(found, found, resamples=20)["lds"] == pytest.approx(1.0)
    assert score(-found, found, resamples=20)["lds"] == pytest.approx(-1.0)


def test_topics_are_alike_within_and_differ_between():
    rows, queries = sentences(0)
    assert rows.shape == (96, 12) and queries.shape == (24, 12) and torch.equal(rows, sentences(0)[0])

    def follow(a, b):
        pairs = [set(zip(x[:-1].tolist(), x[1:].tolist(), strict=True)) for x in (a, b)]
        return len(pairs[0] & pairs[1])

    within = sum(follow(rows[i], rows[j]) for i in range(12) for j in range(12) if i != j)
    between = sum(follow(rows[i], rows[-1 - j]) for i in range(12) for j in range(12) if i != j)
    assert within > 3 * between


def test_the_page_shows_the_record():
    assert table(json.loads(OUT.read_text(encoding="utf-8"))) in PAGE.read_text(encoding="utf-8")
