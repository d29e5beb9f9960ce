"""What a GPU's result files say of the goals: met, not met, not measured."""

from __future__ import annotations

import copy
import json

import pytest

from bench.device.goals import GOALS, verdicts
from bench.readme_figures import gpu_section


def way(seconds: float, memory: int = 100, **more) -> dict:
    return {"seconds": seconds, "peak_bytes": memory, **more}


FAILED = {"failed": "OutOfMemoryError: CUDA out of memory"}
#: Subject -> cases that meet every goal, each just so.
MET = {
    "hvp": [
        {"model": "llama-3.2-1b", "tokens": 1024, "ways": {"fastunlearn": way(1.0, 10), "double backward": way(9.0)}},
        {"model": "llama-3.2-1b", "tokens": 4096, "ways": {
            "gradient, sdpa": way(1.0), "fastunlearn": way(2.9, 25, gradients=2.9), "double backward": way(12.0),
            "torch.func jvp of grad": FAILED}},
    ],
    "hvp-large": [{"model": "llama-3.1-8b", "tokens": 8192, "ways": {
        "gradient, sdpa": way(1.0), "fastunlearn": way(3.1, gradients=3.1), "double backward": FAILED}}],
    "attention": [{"ways": {"dual forward": way(1.0), "dual backward": way(1.0, share_of_product_rate=0.5),
                            "jvp_flash_attention": FAILED, "jvp_flash_attention, without TMA": way(1.6)},
                   "errors": {"ot": 1e-3, "jvp_flash_attention: ot": 2e-3}}],
    "cross-entropy": [{"ways": {"fastunlearn": way(1.0, 10), "hessian-eigenthings: its operator": way(3.0)}}],
    "ghost-gram": [{"ways": {"fastunlearn: CUDA": way(1.0, share_of_product_rate=0.3),
                             "fastunlearn: Triton": way(1.0, share_of_product_rate=0.6)}}],
    "explicit-rows": [{"ways": {"G v": way(1.0, share_of_copy_rate=0.9), "G^T c": way(1.0, share_of_copy_rate=0.85)}}],
    "newton": [{"ways": {"fastunlearn": way(4.0, gradients=4.0)}}],
    "accuracy": [{"ways": {}, "errors": {"product": 0.03, "gradient of torch": 0.02}}],
}  # fmt: skip
#: Goal, by its place -> the subject, the way in its last case and what is changed there, so that it is missed.
MISSED = [
    ("hvp", "fastunlearn", {"gradients": 3.1}), ("hvp", "double backward", {"seconds": 11.0}),
    ("hvp-large", "double backward", {"seconds": 50.0, "peak_bytes": 1, "failed": None}),
    ("attention", "dual forward", {"seconds": 1.2}), ("attention", "dual backward", {"share_of_product_rate": 0.49}),
    ("cross-entropy", "fastunlearn", {"peak_bytes": 11}),
    ("ghost-gram", "fastunlearn: Triton", {"share_of_product_rate": 0.5}),
    ("explicit-rows", "G^T c", {"share_of_copy_rate": 0.8}), ("newton", "fastunlearn", {"gradients": 4.1}),
    ("accuracy", None, {"product": 0.031}),
]  # fmt: skip


def written(folder, found: dict):
    for subject, cases in found.items():
        (folder / f"h200-{subject}.json").write_text(json.dumps({"cases": cases}), encoding="utf-8")
    return verdicts(folder, "h200")


def test_all_met(tmp_path):
    found = written(tmp_path, MET)
    assert len(found) == len(GOALS) == len(MISSED) and all(verdict.met for verdict in found), found
    assert "4.1 times, 0.25 of the memory (double backward, 4096 tokens)" in found[1].measured
    section = gpu_section(tmp_path)
    assert section.count(", met |") == len(GOALS) and "No figure of a GPU" not in section


@pytest.mark.parametrize("place", range(len(MISSED)))
def test_one_missed(tmp_path, place):
    subject, name, change = MISSED[place]
    changed = copy.deepcopy(MET)
    last = changed[subject][-1]
    (last["errors"] if name is None else last["ways"][name]).update(change)
    assert [verdict.met for verdict in written(tmp_path, changed)] == [n != place for n in range(len(GOALS))]
    assert gpu_section(tmp_path).count(", not met |") == 1


def test_peers_are_compared_where_they_run(tmp_path):
    """At 4096 tokens all of them run out of memory: then at 1024."""
    changed = copy.deepcopy(MET)
    changed["hvp"][1]["ways"]["double backward"] = FAILED
    assert "(double backward, 1024 tokens)" in written(tmp_path, changed)[1].measured


def test_nothing_measured(tmp_path):
    assert all(verdict.met is None and verdict.measured == "not measured" for verdict in verdicts(tmp_path, "h200"))
    assert "No figure of a GPU is known yet" in gpu_section(tmp_path)


def test_a_way_that_failed_is_not_measured(tmp_path):
    changed = copy.deepcopy(MET)
    for cases in changed.values():
        for case in cases:
            case["ways"] = dict.fromkeys(case["ways"], FAILED)
    found = written(tmp_path, changed)
    assert [verdict.met for verdict in found[:-1]] == [None] * (len(GOALS) - 1)
