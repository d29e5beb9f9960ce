"""What a GPU's result files say of the goals: met, not met, not measured."""

from __future__ import annotations

import copy
import json

import pytest

from bench.device import goals
from bench.device.goals import GOALS, verdicts
from bench.readme_figures import gpu_section


def way(seconds: float, memory: int = 100, **more) -> dict:
    return {"seconds": seconds, "peak_bytes": memory, **more}


FAILED = {"failed": "OutOfMemoryError: CUDA out of memory"}
RECOMPUTED, PLAIN = goals.RECOMPUTE, dict.fromkeys(goals.PLAIN, FAILED)
SMALL = {"model": "llama-3.2-1b"}
#: Subject -> cases that meet every goal, each just so.
MET = {
    "hvp": [{**SMALL, "tokens": 4096, "ways": {
        "gradient, sdpa": way(1.0), "gradient, sdpa, torch.compile": FAILED, goals.AUTO: way(2.9, 99, gradients=2.9),
        RECOMPUTED: way(3.0, 25), **PLAIN, "double backward": way(12.0)}}],
    "hvp-short": [{**SMALL, "tokens": 1024, "ways": {RECOMPUTED: way(1.0, 10), **PLAIN, "double backward": way(9.0)}}],
    "hvp-large": [{"model": "llama-3.1-8b", "tokens": 8192, "ways": {
        "gradient, sdpa": way(1.0), goals.AUTO: way(3.1, gradients=3.1), RECOMPUTED: way(4.0), **PLAIN}}],
    "attention": [{"length": length, "head": head, "ways": {
        "dual forward": way(1.0), "dual backward": way(1.0, share_of_product_rate=0.5),
        "jvp_flash_attention": FAILED, "jvp_flash_attention, without TMA": way(1.6)},
        "errors": {"ot": 1e-3, "jvp_flash_attention: ot": 2e-3}}
        for length in (2048, 4096, 8192, 16384) for head in (64, 128)],
    "cross-entropy": [{"tokens": 4096, "width": 4096, "vocabulary": 128256, "ways": {
        "fastunlearn": way(1.0, 10), "hessian-eigenthings: its operator": way(3.0)}}],
    "ghost-gram": [{"tokens": 32768, "length": length, "ways": {
        "fastunlearn: CUDA": way(1.0, share_of_product_rate=0.3),
        "fastunlearn: Triton": way(1.0, share_of_product_rate=0.6)}} for length in (1, 32, 256)],
    "explicit-rows": [{"dtype": dtype, "ways": {
        "G v": way(1.0, share_of_copy_rate=0.9), "G^T c": way(1.0, share_of_copy_rate=0.85)}}
        for dtype in ("float32", "bfloat16", "int8")],
    "newton": [{"samples": 512, "tokens": 256, "ways": {
        "gradient, sdpa": way(1.0), "fastunlearn": way(4.0, gradients=4.0)}}],
    "accuracy": [{**SMALL, "tokens": 512, "ways": {}, "errors": {"product": 0.03, "gradient of torch": 0.02}}],
}  # fmt: skip
#: Goal, by its place -> the subject, the way in its last case and what is changed there, so that it is missed.
MISSED = [
    ("hvp", goals.AUTO, {"gradients": 3.1}), ("hvp", "double backward", {"seconds": 11.0}),
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
    assert "4.0 times, 0.25 of the memory (double backward, 4096 tokens)" in found[1].measured
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
    changed["hvp"][0]["ways"]["double backward"] = FAILED
    assert "(double backward, 1024 tokens)" in written(tmp_path, changed)[1].measured


def test_nothing_measured(tmp_path):
    assert all(verdict.met is None and verdict.measured == "not measured" for verdict in verdicts(tmp_path, "h200"))
    assert "No figure of a GPU is known yet" in gpu_section(tmp_path)


def test_a_peer_that_failed_is_not_measured(tmp_path):
    """The goals that are about it have nothing to judge by."""
    changed = copy.deepcopy(MET)
    for cases in changed.values():
        for case in cases:
            case["ways"] |= {name: FAILED for name in case["ways"] if name.startswith(("jvp", "hessian-eig", "double"))}
    found = written(tmp_path, changed)
    assert [n for n, verdict in enumerate(found) if verdict.met is None] == [1, 3, 5]
    assert all(verdict.met for verdict in found if verdict.met is not None)


def test_a_failure_of_ours_is_one(tmp_path):
    """In one case of many, beside good ones, where a peer runs: it is not left out, and the goal not met."""
    for place, goal in enumerate(GOALS):
        changed = copy.deepcopy(MET)
        last = changed[goal.subjects[-1]][-1]
        if goal.ours:
            last["ways"][goal.ours[-1]] = FAILED
        else:
            del last["errors"]
            last["failed"] = FAILED["failed"]
        verdict = written(tmp_path, changed)[place]
        assert verdict.met is False and verdict.measured == f"failed: {FAILED['failed']}", verdict
        assert f"{verdict.measured}, not met |" in gpu_section(tmp_path)


def test_everything_failed_on_the_gpu(tmp_path):
    changed = copy.deepcopy(MET)
    for cases in changed.values():
        for case in cases:
            case |= {"ways": dict.fromkeys(case["ways"], FAILED), "failed": FAILED["failed"]}
    assert all(verdict.met is False for verdict in written(tmp_path, changed))
    assert "No figure of a GPU" not in gpu_section(tmp_path)


@pytest.mark.parametrize("place", range(len(GOALS)))
def test_a_file_that_was_cut_short_is_not_met(tmp_path, place):
    """Its last case is missing, or in that case the last way that had its turn; what was missed stays missed."""
    goal = GOALS[place]
    changed = copy.deepcopy(MET)
    cases = changed[goal.subjects[-1]]
    if len(goal.about) > 1:
        cases.pop()
    elif goal.beside:
        del cases[-1]["ways"][goal.beside[-1]]
    else:
        cases.clear()
    verdict = written(tmp_path, changed)[place]
    assert verdict.met is None and ("cut short" in verdict.measured or not cases), verdict
    subject, name, change = MISSED[place]
    if cases and name:
        changed[subject][-1]["ways"][name].update(change)
        assert written(tmp_path, changed)[place].met is False


def test_an_error_that_is_not_finite_is_not_met(tmp_path):
    changed = copy.deepcopy(MET)
    changed["accuracy"][0]["errors"]["product"] = None
    changed["attention"][0]["errors"]["ot"] = None
    found = written(tmp_path, changed)
    assert found[-1].met is False and found[3].met is False and "not lower" in found[3].measured
