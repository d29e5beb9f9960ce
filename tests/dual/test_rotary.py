"""Rotary functions of models: one kernel where they are the operation, their own code where they are not."""

from __future__ import annotations

import threading

import pytest
import torch
from transformers.models.llama import modeling_llama

import fastunlearn.dual.rotary as rotary
from fastunlearn.dual import DualPass

from ..models.catalogue import build, make_batch
from . import oracle


@pytest.fixture
def calls(monkeypatch):
    """Each use of the operation: (axes of x, interleaved)."""
    seen, own = [], rotary.op.apply

    def apply(x, cos, sin, interleaved=False, inverse=False):
        seen.append((x.dim(), interleaved))
        return own(x, cos, sin, interleaved, inverse)

    monkeypatch.setattr(rotary.op, "apply", apply)
    return seen


def product(model, batch, memory="store"):
    parameters = oracle.chosen(model)
    v, out = oracle.directions(parameters, 2), oracle.accumulators(parameters, 2)
    DualPass(model, parameters, oracle.model_loss, memory).hessian(batch, v, out)
    expected = oracle.hessian(model, parameters, batch, v)[0]
    difference = sum(float((out[n] - expected[n]).square().sum()) for n in out)
    return (difference / sum(float(e.square().sum()) for e in expected.values())) ** 0.5


@pytest.mark.parametrize("name, interleaved", [("llama", False), ("gpt_neox", False), ("qwen3", False)])
@pytest.mark.parametrize("memory", ["store", "recompute"])
def test_takes_the_operation(name, interleaved, memory, calls):
    assert product(build(name), make_batch(padded=True), memory) <= 1e-10
    assert {turned for axes, turned in calls if axes == 5} == {interleaved}


def test_takes_interleaved_pairs(calls, monkeypatch):
    def pairs(q, k, cos, sin, unsqueeze_dim=1):
        def turn(x):
            rotated = torch.stack((-x[..., 1::2], x[..., 0::2]), -1).flatten(-2)
            return x * cos.unsqueeze(1) + rotated * sin.unsqueeze(1)

        return turn(q), turn(k)

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", pairs)
    assert product(build("llama"), make_batch()) <= 1e-10
    assert {turned for axes, turned in calls if axes == 5} == {True}


@pytest.mark.parametrize("name", ["cohere", "llama"])
def test_a_first_input_that_tells_nothing(name, calls):
    """Position 0 alone is not turned at all: what is right for it says nothing about the next batch."""
    model, batch = build(name), make_batch()
    parameters = oracle.chosen(model)
    v = oracle.directions(parameters, 1)
    engine = DualPass(model, parameters, _squares)
    for ids in (batch["input_ids"][:, :1], batch["input_ids"]):
        out = oracle.accumulators(parameters, 1)
        engine.hessian({"input_ids": ids}, v, out)
        truth = oracle.hessian(model, parameters, {"input_ids": ids}, v, _squares)[0]
        difference = sum(float((out[n] - truth[n]).square().sum()) for n in out) ** 0.5
        assert difference <= 1e-10 * sum(float(t.square().sum()) for t in truth.values()) ** 0.5
    assert {turned for axes, turned in calls if axes == 5} == {name == "cohere"}


def _squares(model, batch):
    with oracle.Keep64():
        return model(batch["input_ids"]).logits.square().mean()


def test_leaves_another_function_of_that_name_alone(calls, monkeypatch):
    def other(q, k, cos, sin, unsqueeze_dim=1):
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        return q * cos + modeling_llama.rotate_half(q).tanh() * sin, k * cos - modeling_llama.rotate_half(k) * sin

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", other)
    assert product(build("llama"), make_batch()) <= 1e-10
    assert calls and all(axes == 4 for axes, _ in calls)  # tried on values, never used


def test_other_threads_and_failures_keep_the_models_function(monkeypatch):
    own = modeling_llama.apply_rotary_pos_emb
    model, batch = build("llama"), make_batch()
    parameters = oracle.chosen(model)
    before = model(**batch).loss
    losses = []

    def loss(model, batch):
        assert modeling_llama.apply_rotary_pos_emb is not own
        thread = threading.Thread(target=lambda: losses.append(build("llama")(**batch).loss))
        thread.start()
        thread.join()
        oracle.model_loss(model, batch)
        raise KeyError("the user's own loss failed")

    with pytest.raises(KeyError, match="own loss"):
        DualPass(model, parameters, loss).hessian(
            batch, oracle.directions(parameters, 1), oracle.accumulators(parameters, 1)
        )
    assert modeling_llama.apply_rotary_pos_emb is own
    assert torch.equal(losses[0], before)
