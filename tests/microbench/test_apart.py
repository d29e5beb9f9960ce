"""Ways in processes of their own: the same record as in one process, and a process without memory says so."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.microbench import product_cases
from fastunlearn.microbench.apart import compare_apart
from fastunlearn.microbench.harness import OURS

HERE = "fastunlearn.microbench.product_cases"
CASE = {"kind": "hessian", "shape": "llama-tiny", "tokens": 9}
PEER = "double backward"
ROOM = 64 << 30


def test_each_way_is_checked_timed_and_measured():
    exact = product_cases.truth(CASE)[1]
    found = compare_apart(HERE, CASE, [OURS, PEER], exact, 1e-4, rounds=3, memory=ROOM)
    for way in (OURS, PEER):
        result = found[way]
        assert result["gate"] == "passed" and 0 < result["error"] < 1e-5, way
        assert 0 < result["seconds_least"] <= result["seconds"] and result["rounds"] == 3
        assert result["peak_bytes"] > 0
    wrong = compare_apart(HERE, CASE, [PEER], exact + exact.abs().max(), 1e-4, rounds=1, memory=ROOM)
    assert wrong[PEER]["gate"] == "rejected" and wrong[PEER]["error"] > 0.1 and "seconds" not in wrong[PEER]


def test_a_way_without_memory_is_reported_and_ours_may_not_fail():
    case = {**CASE, "shape": "llama-5m", "tokens": 4096}  # attention alone keeps 270 MB for each of its arrays
    exact = torch.zeros(1, dtype=torch.float64)
    found = compare_apart(HERE, case, [PEER], exact, 1e-4, rounds=1, memory=1 << 30)
    assert found[PEER]["gate"] == "failed" and "allocate memory" in found[PEER]["reason"]
    with pytest.raises(RuntimeError, match="no-such-shape"):
        compare_apart(HERE, {**CASE, "shape": "no-such-shape"}, [OURS], exact, 1e-4, rounds=1, memory=ROOM)
