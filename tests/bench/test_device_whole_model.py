"""Whole models as timings run them: what is compiled, and what counts as memory."""

from __future__ import annotations

import contextlib
import functools
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


def held(monkeypatch, bench: Bench, cases: list, shape: tuple[int, ...]) -> dict[str, bool]:
    """By the names of the ways: whether a float32 array of that shape is there when one is about to be measured."""
    found: list[bool] = []
    measure = bench.measure

    def watch(run):
        gc.collect()
        found.append(any(type(o) is torch.Tensor and o.dtype == torch.float32 and o.shape == shape
                         for o in gc.get_objects()))  # fmt: skip
        return measure(run)

    monkeypatch.setattr(bench, "measure", watch)
    return dict(zip(fill(cases)["ways"], found, strict=False))


def test_our_result_counts_as_those_of_others_do(bench, monkeypatch):
    """With either setting of what the reverse sweep may keep."""
    found = held(monkeypatch, bench, whole_model.hvp(bench), (1, 61, 32))
    assert [found[name] for name in whole_model.OURS] == [False, False]


def test_that_of_the_output_layer_too(bench, monkeypatch):
    assert not held(monkeypatch, bench, output_layer.cross_entropy(bench), (1, 50, 8))["fastunlearn"]


def test_recorded_after_a_warm_up_and_replayed(bench, monkeypatch):
    """On a GPU the product of the operator is recorded once; nothing else runs in the calls after that."""
    model = whole_model.build(bench, "toy", 8)
    make = functools.partial(whole_model._operator_product, model, whole_model.make_batch(model, 8),
                             whole_model._tangents(model))  # fmt: skip
    events, product = [], make()

    def made():
        return lambda: events.append("product") or product()

    class Graph:
        def replay(self):
            events.append("replay")

    @contextlib.contextmanager
    def record(graph):
        events.append("record")
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: events.append("wait"))
    recorded = whole_model.Recorded(made)
    recorded()
    recorded()
    assert events == ["product", "wait", "record", "product", "replay", "replay"]
    assert recorded.out.keys() == dict(model.named_parameters()).keys()
