"""The sample-space formulas with rows taken out (signs of -1), against the dense matrix in float64: no model."""

from __future__ import annotations

import pytest
import torch

from fastunlearn.errors import NotPositiveDefiniteError
from fastunlearn.solve.sample_space import SampleSpace

DAMPING, M, P = 0.3, 4, 9  # m is not the number of rows


@pytest.fixture
def rows():
    g = torch.randn(6, P, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    g[4:] *= 0.3  # those taken out: little enough to leave F positive definite
    return g


@pytest.fixture
def signs():
    return torch.tensor([1.0, 1, 1, 1, -1, -1], dtype=torch.float64)


def dense(g, signs, damping=DAMPING, m=M):
    return damping * torch.eye(g.shape[1], dtype=torch.float64) + g.T @ (signs[:, None] * g) / m


def power(matrix, p, floor=0.0):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp_min(floor) ** p) @ vectors.T


@pytest.mark.parametrize("signed", [False, True])
def test_push_through_woodbury_powers_and_determinant(rows, signs, signed):
    signs = signs if signed else torch.ones(6, dtype=torch.float64)
    f, v = dense(rows, signs), torch.linspace(-1, 1, P, dtype=torch.float64)[:, None]
    space = SampleSpace((rows @ rows.T)[None], DAMPING, M, signs)
    c = torch.linspace(1, 2, 6, dtype=torch.float64)[:, None]
    torch.testing.assert_close(rows.T @ space.push_through(c)[0], torch.linalg.solve(f, rows.T @ c))
    woodbury = (v - rows.T @ space.inverse(rows @ v)[0]) / DAMPING
    torch.testing.assert_close(woodbury, torch.linalg.solve(f, v))
    for p in (-1.0, -0.5, 0.25, 1.0, 2.0):
        base, w = space.power(p, (rows @ v)[None])
        torch.testing.assert_close(base * v + rows.T @ w[0], power(f, p) @ v)
    base, w = space.power(-0.5, (rows @ v)[None], floor=0.5)
    torch.testing.assert_close(base * v + rows.T @ w[0], power(f, -0.5, 0.5) @ v)
    assert space.logdet(P) == pytest.approx(torch.logdet(f).item())
    t, b = space.spectrum()
    live = (rows.T @ b[0]).norm(dim=0) > 0.5
    vectors = rows.T @ b[0][:, live]
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(int(live.sum()), dtype=torch.float64))
    torch.testing.assert_close(rows.T @ (signs[:, None] * rows) @ vectors, vectors * t[0, live])


def test_rows_of_no_weight_have_no_direction(rows):
    """A row twice, and one of zeros: K is singular, and the formulas hold."""
    g = torch.cat([rows[:3], rows[:1], torch.zeros(1, P, dtype=torch.float64)])
    signs = torch.tensor([1.0, 1, 1, -1, 1], dtype=torch.float64)
    space = SampleSpace((g @ g.T)[None], DAMPING, M, signs)
    v = torch.linspace(-1, 1, P, dtype=torch.float64)[:, None]
    base, w = space.power(-0.5, (g @ v)[None])
    torch.testing.assert_close(base * v + g.T @ w[0], power(dense(g, signs), -0.5) @ v)


@pytest.mark.parametrize(("share", "refused"), [(0.99, False), (1.01, True)])
def test_what_may_be_taken_out_ends_where_f_stops_to_be_positive(share, refused):
    """One row of length l taken out of nothing: the smallest eigenvalue is damping - l^2 / m."""
    g = torch.zeros(1, P, dtype=torch.float64)
    g[0, 2] = (share * DAMPING * M) ** 0.5
    gram, minus = (g @ g.T)[None], torch.tensor([-1.0])
    if refused:
        with pytest.raises(NotPositiveDefiniteError, match="not positive definite"):
            SampleSpace(gram, DAMPING, M, minus)
    else:
        found = (g.T @ SampleSpace(gram, DAMPING, M, minus).push_through(torch.ones(1, 1))[0])[2, 0]
        truth = torch.linalg.solve(dense(g, minus.double()), g[0])[2]
        assert found.item() == pytest.approx(truth.item(), rel=1e-9)
