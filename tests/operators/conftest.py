"""A model so small that its dense Hessian can be had, batches that differ in size and targets, and the engine.

``engine``: tests that ask for it run twice, on the dual pass and on the oracle that is tested against; so a fault is
told apart from one of the operators.
"""

from __future__ import annotations

import pytest
import torch

from fastunlearn.operators import curvature
from tests.models.catalogue import NanoGPT, WithLoss, draw_weights, make_batch
from tests.oracles.double_backward import DoubleBackward

VOCABULARY = 11


@pytest.fixture(params=["dual", "oracle"])
def engine(request, monkeypatch):
    """Which engine the operators use."""
    if request.param == "oracle":
        monkeypatch.setattr(curvature, "make_engine", DoubleBackward)
    return request.param


def make_tiny(dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = WithLoss(NanoGPT(width=8, heads=2, layers=1, vocabulary=VOCABULARY, context=8))
        draw_weights(model)
    return model.to(dtype).eval()


@pytest.fixture
def tiny():
    """A GPT of about a thousand parameters, float64."""
    return make_tiny()


def make_batches():
    """Three batches of 3, 1 and 2 sequences with 9, 4 and 6 target tokens."""
    batches = [make_batch(samples=3, tokens=6, padded=True), make_batch(samples=1, tokens=5, seed=1),
               make_batch(samples=2, tokens=4, seed=2)]  # fmt: skip
    for batch in batches:
        batch["input_ids"] %= VOCABULARY
        batch["labels"] = torch.where(batch["labels"] == -100, -100, batch["labels"] % VOCABULARY)
    return batches


@pytest.fixture
def batches():
    """See make_batches."""
    return make_batches()


@pytest.fixture(scope="session")
def dense():
    """``dense(kind)``: the dense matrix of the tiny model over the batches, computed once."""
    from tests.oracles import dense as matrices

    found = {}

    def get(kind):
        if kind not in found:
            found[kind] = getattr(matrices, kind)(make_tiny(), make_batches())
        return found[kind]

    return get


def error(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Relative error in the Euclidean norm; NaN counts as infinite."""
    difference = (found.double() - truth).norm() / truth.norm()
    return float(torch.nan_to_num(difference, nan=torch.inf))
