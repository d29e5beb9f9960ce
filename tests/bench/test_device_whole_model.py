"""Whole models as timings run them: what is compiled, and what counts as memory."""

from __future__ import annotations

import gc

import pytest
import torch

from bench.device import output_layer, whole_model
from bench.device.measure import Bench


@pytest.fixture
def bench() -> Bench:
    return Bench("cpu", True, 1)


def fill(cases: list) -> dict:
    ((case, function),) = cases
    for _ in function(case):
        pass
    return case


@pytest.mark.slow
def test_the_compiled_gradient_has_fixed_sizes(bench, monkeypatch):
    """Also after another length, which would otherwise make them vary."""
    symbolic = []

    def backend(graph, inputs):
        symbolic.append(any(isinstance(s, torch.SymInt) for i in inputs for s in (i, *getattr(i, "shape", ()))))
        return graph

    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **how: compiler(function, backend=backend, **how))
    for tokens in (8, 16, 12):
        model = whole_model.build(bench, "toy", tokens)
        whole_model._compiled_gradients(model, whole_model.make_batch(model, tokens))()
    assert len(symbolic) >= 3 and not any(symbolic)


def test_only_the_length_of_the_goal_is_compiled(monkeypatch):
    """4096 tokens; at 1024 and for the large model that would be minutes for nothing."""
    large, asked = Bench("cpu", False, 1), []
    monkeypatch.setattr(whole_model, "_products", lambda _, compiled, case: asked.append((case["tokens"], compiled)))
    for subject in (whole_model.hvp, whole_model.short_hvp, whole_model.large_hvp):
        ((case, function),) = subject(large)
        function(case)
    assert asked == [(4096, True), (1024, False), (8192, False)]


def held_before(monkeypatch, bench: Bench, name: str, cases: list, shape: tuple[int, ...]) -> bool:
    """Whether a float32 array of that shape is there when the way of that name is about to be measured."""
    found = {}
    measure = bench.measure

    def watch(run):
        gc.collect()
        found[len(found)] = any(type(o) is torch.Tensor and o.dtype == torch.float32 and o.shape == shape
                                for o in gc.get_objects())  # fmt: skip
        return measure(run)

    monkeypatch.setattr(bench, "measure", watch)
    case = fill(cases)
    ways = [way for way in case["ways"] if not way.startswith("one way")]
    return found[ways.index(name)]


@pytest.mark.parametrize("way", whole_model.OURS)
def test_our_result_counts_as_those_of_others_do(way, bench, monkeypatch):
    assert not held_before(monkeypatch, bench, way, whole_model.hvp(bench), (1, 61, 32))


def test_that_of_the_output_layer_too(bench, monkeypatch):
    assert not held_before(monkeypatch, bench, "fastunlearn", output_layer.cross_entropy(bench), (1, 50, 8))


def test_both_settings_of_memory_are_measured(bench):
    assert set(whole_model.OURS) <= set(fill(whole_model.hvp(bench))["ways"])
