"""The sign and the scale of the removal update, on a problem where the truth is known: ridge regression.

200 rows, 15 of them removed; each row's loss is (x.theta - y)^2 / 2, and the loss of m rows adds a ridge. The
minimiser without the 15 rows is exactly one Newton step away: ``theta + H_retain^-1 sum g_forget``.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fastunlearn.errors import NotPositiveDefiniteError
from fastunlearn.solve import KeptFisher, SampleSpaceFisher
from fastunlearn.unlearn.methods.newton import newton_update

ROWS, REMOVED, WIDTH = 200, 15, 10
DAMPING = 0.01  # per row: the ridge of m rows is m * DAMPING


class Rows:
    """Rows of a least-squares problem in the place of per-sample gradients: their Fisher is X^T X / m."""

    def __init__(self, x: torch.Tensor):
        self.x, self.parameters = x, {"theta": torch.zeros(x.shape[1], dtype=x.dtype)}

    def __len__(self) -> int:
        return len(self.x)

    def dot(self, vectors, block_of=None):
        products = self.x @ vectors["theta"].T
        return products if block_of is None else products[None]

    def weighted_gradient(self, c, block_of=None):
        return {"theta": c.reshape(-1, len(self.x))[0] @ self.x}


@pytest.fixture(scope="module")
def ridge():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64)
    y = x @ torch.randn(WIDTH, generator=generator, dtype=torch.float64)
    y = y + 0.5 * torch.randn(ROWS, generator=generator, dtype=torch.float64)
    x[:REMOVED] *= 1.5
    y[:REMOVED] += 1.5  # what is removed must have mattered

    def minimiser(x, y):
        return torch.linalg.solve(x.T @ x + len(x) * DAMPING * torch.eye(WIDTH, dtype=x.dtype), x.T @ y)

    theta = minimiser(x, y)
    forget = x[:REMOVED]
    # A row's gradient, with its own share of the ridge, so that the full data's gradients sum to zero.
    g = forget.T @ (forget @ theta - y[:REMOVED]) + REMOVED * DAMPING * theta
    return SimpleNamespace(x=x, theta=theta, without=minimiser(x[REMOVED:], y[REMOVED:]), g={"theta": g})


def distance(ridge, update=None) -> float:
    """L2 distance to the minimiser without the removed rows, after ``theta + update``."""
    theta = ridge.theta if update is None else ridge.theta + update["theta"]
    return float((theta - ridge.without).norm())


def kept(x: torch.Tensor) -> KeptFisher:
    values, vectors = torch.linalg.eigh(x.T @ x)
    return KeptFisher({"theta": vectors.T.contiguous()}, torch.diag(values), DAMPING, len(x), "empirical", "")


def dense_solve(x: torch.Tensor, v: dict) -> dict:
    fisher = x.T @ x / len(x) + DAMPING * torch.eye(WIDTH, dtype=x.dtype)
    return {"theta": torch.linalg.solve(fisher, v["theta"])}


def test_the_problem_is_worth_solving(ridge):
    assert 0.03 < distance(ridge) < 3


def test_the_update_reaches_the_minimiser_without_the_rows(ridge):
    update = newton_update(dense_solve(ridge.x[REMOVED:], ridge.g), ROWS - REMOVED)
    assert distance(ridge, update) <= 1e-12


def test_the_same_by_the_solver_of_retained_records(ridge):
    retained, forget = Rows(ridge.x[REMOVED:]), Rows(ridge.x[:REMOVED])
    fisher = SampleSpaceFisher(retained, DAMPING, gram=(retained.x @ retained.x.T)[None])
    assert distance(ridge, newton_update(fisher.solve(ridge.g), len(retained))) <= 1e-12
    # As the method does it, from g = J^T c: the 15 rows span all 10 dimensions, so there is such a c.
    c = torch.linalg.lstsq(forget.x.T, ridge.g["theta"]).solution
    on_retained, on_forget = fisher.outside_weights((retained.x @ forget.x.T)[None], c)
    solved = retained.weighted_gradient(on_retained)["theta"] + forget.weighted_gradient(on_forget)["theta"]
    assert distance(ridge, newton_update({"theta": solved}, len(retained))) <= 1e-12


def test_the_kept_fisher_without_the_rows_reaches_it_too(ridge):
    left = kept(ridge.x).remove(Rows(ridge.x[:REMOVED]))
    assert left.samples == ROWS - REMOVED
    assert distance(ridge, newton_update(left.solve(ridge.g), left.samples)) <= 1e-12


def test_the_kept_fisher_of_all_rows_misses_but_helps(ridge):
    whole = kept(ridge.x)
    missed = distance(ridge, newton_update(whole.solve(ridge.g), whole.samples))
    assert 1e-3 < missed < distance(ridge)


def test_the_wrong_sign_is_worse_than_nothing(ridge):
    update = newton_update(kept(ridge.x[REMOVED:]).solve(ridge.g), ROWS - REMOVED)
    assert distance(ridge, {"theta": -update["theta"]}) > 1.5 * distance(ridge)


def test_metric_is_what_the_solves_say(ridge):
    left, forget = kept(ridge.x).remove(Rows(ridge.x[:REMOVED])), ridge.x[:REMOVED]
    metric = left.metric(forget @ forget.T, Rows(forget).dot(left.vectors))
    expected = torch.stack([forget @ left.solve({"theta": row})["theta"] for row in forget], 1)
    assert torch.allclose(metric, expected, atol=1e-10)


def test_rows_that_were_never_there_cannot_be_removed(ridge):
    with pytest.raises(NotPositiveDefiniteError, match="not part of the kept Fisher"):
        kept(ridge.x).remove(Rows(10 * ridge.x[:REMOVED]))
