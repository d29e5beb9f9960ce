"""The Fisher that serves several steps, against the dense solve with gradients at the weights that it was taken at."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.operators.losses import negative_log_likelihood, softplus_log_odds
from fastunlearn.operators.targets import make_batch, target_logits
from fastunlearn.unlearn import leverage
from fastunlearn.unlearn.curvature import RetainCurvature
from fastunlearn.unlearn.request import prepare
from tests.unlearn.running import run

DAMPING = 1e-3
PULL = softplus_log_odds(-1.0)


def rows(request, samples, loss) -> torch.Tensor:
    """Per-sample gradients by autograd, one by one, float64."""
    found = []
    chosen = list(request.parameters.values())
    for sample in samples:
        got = target_logits(request.model, make_batch(request.model, [sample], request.pad_token_id))
        gradients = torch.autograd.grad(loss(got.logits, got.tokens).sum(), chosen)
        found.append(torch.cat([g.flatten() for g in gradients]).double())
    return torch.stack(found)


def solved(g, j, c) -> torch.Tensor:
    """``(damping I + G^T G / m)^-1 J^T c`` by Woodbury."""
    v = j.T @ c
    inner = len(g) * DAMPING * torch.eye(len(g), dtype=g.dtype) + g @ g.T
    return (v - g.T @ torch.linalg.solve(inner, g @ v)) / DAMPING


@pytest.fixture
def request_of(world):
    return lambda **more: prepare(world.model, world.tokenizer, **world.data, **more)


def make(request, refresh):
    return RetainCurvature(
        request, damping=DAMPING, blocks="model", kind="empirical", fisher_samples=None, refresh=refresh
    )


def flat(vector) -> torch.Tensor:
    return torch.cat([part.flatten().double() for part in vector.values()])


def move(request) -> None:
    with torch.no_grad():
        for parameter in request.parameters.values():
            parameter += 0.01 * torch.randn_like(parameter)


@pytest.mark.parametrize("refresh", [1, 2])
def test_the_retained_part_is_old_and_the_forget_part_new(request_of, refresh):
    request = request_of()
    maker = make(request, refresh)
    maker.at(1, PULL)
    old = rows(request, request.retain, negative_log_likelihood)
    move(request)
    new = rows(request, request.retain, negative_log_likelihood)
    spent = request.gradients
    c = torch.rand(len(request.forget), dtype=torch.float64) + 0.5
    got = flat(maker.at(2, PULL).solve_forget(c))
    assert request.gradients - spent == (10 if refresh == 2 else 50)
    expected = solved(old if refresh == 2 else new, rows(request, request.forget, PULL), c)
    other = solved(new if refresh == 2 else old, rows(request, request.forget, PULL), c)
    assert float((got - expected).norm() / expected.norm()) < 1e-3
    assert float((got - other).norm() / expected.norm()) > 1e-2  # the test can tell the two apart
    spent = request.gradients
    maker.at(3, PULL)
    assert request.gradients - spent == 50


def test_without_memory_for_the_factors_every_step_has_its_own(request_of):
    request = request_of(memory="1.2MB", batch_size=2)
    maker = make(request, 5)
    assert not maker.at(1, PULL).retained.keeps_factors
    move(request)
    c = torch.ones(len(request.forget), dtype=torch.float64)
    expected = solved(*(rows(request, *one) for one in (
        (request.retain, negative_log_likelihood), (request.forget, PULL))), c)  # fmt: skip
    got = flat(maker.at(2, PULL).solve_forget(c))
    assert float((got - expected).norm() / expected.norm()) < 1e-3


def test_it_still_forgets_for_fewer_gradients(world):
    result = run(world, refresh=3)
    steps = result.steps[-1]["step"]
    assert result.stopped.startswith("reached the target")
    assert result.gradients == 10 * steps + 40 * -(-steps // 3)


def test_leverage_is_that_of_the_dense_fisher(request_of):
    request = request_of()
    found = make(request, 1).at(1, PULL).leverage()
    g, j = rows(request, request.retain, negative_log_likelihood), rows(request, request.forget, PULL)
    h = (j @ solved(g, j, torch.eye(len(j), dtype=j.dtype))).diagonal() / len(g)
    assert found["leverage_max"] == pytest.approx(h.max().item(), rel=1e-4)
    assert found["leverage_sum"] == pytest.approx(h.sum().item(), rel=1e-4) and found["leverage_sum"] > 0


def test_leverage_that_is_dear_is_bounded(request_of, monkeypatch):
    at = make(request_of(), 1).at(1, PULL)
    exact = at.leverage()
    monkeypatch.setattr(leverage, "MOST_COST", 0)
    assert exact["leverage_max"] <= at.leverage()["leverage_at_most"] < float("inf")


@pytest.mark.parametrize(("method", "key"), [
    ("fisher-removal", "leverage_max"), ("newton", "leverage_sum"), ("fisher-removal-retain-free", "leverage_at_most"),
])  # fmt: skip
def test_every_step_tells_the_leverage(world, method, key):
    more = {} if method == "newton" else {"steps": 2}
    steps = run(world, method, target_accuracy=0.0, **more).steps
    assert len(steps) > 1 and all(step[key] > 0 for step in steps[1:]) and key not in steps[0]
