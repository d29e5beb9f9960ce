"""CG, MINRES, Nystrom, Lanczos on dense matrices with known spectra, and on a model's own operators."""

from __future__ import annotations

import pytest
import torch

import fastunlearn as fu
from fastunlearn.errors import InvalidInputError, NotPositiveDefiniteError
from fastunlearn.operators.sample_gradients import SampleGradients
from fastunlearn.solve import cg, lanczos, minres, nystrom, sketched_gram, solve_in_sample_space
from tests.operators.sampling import make_samples, true_gradients


def matrix(values, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.as_tensor(values, dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64, generator=generator))[0]
    return (q * values) @ q.T


def right(size, columns=None, seed=1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((size,) if columns is None else (size, columns), dtype=torch.float64, generator=generator)


def error(got, truth) -> float:
    return ((got - truth).norm() / truth.norm()).item()


class Counting:
    """A matrix that notes how many vectors it was multiplied with."""

    def __init__(self, a):
        self.a, self.shape, self.dtype, self.vectors = a, a.shape, a.dtype, 0

    def __matmul__(self, v):
        assert v.dim() == 2
        self.vectors += v.shape[1]
        return self.a @ v


@pytest.mark.parametrize("columns", [None, 1, 5, 63])
@pytest.mark.parametrize("solver", [cg, minres])
def test_definite_systems(solver, columns):
    a = Counting(matrix(torch.logspace(-2, 2, 63, dtype=torch.float64)))
    b = right(63, columns)
    found = solver(a, b, damping=0.5, tolerance=1e-10)
    truth = torch.linalg.solve(a.a + 0.5 * torch.eye(63, dtype=torch.float64), b)
    assert found.converged and found.value.shape == b.shape and error(found.value, truth) <= 1e-8
    assert found.products == a.vectors
    assert found.residual <= 2e-10 and len(found.residuals) == found.iterations
    left = a.a @ found.value + 0.5 * found.value - b
    assert abs(found.residual - float((left.norm(dim=0) / b.norm(dim=0)).max())) < 1e-12


def test_a_block_needs_fewer_iterations_than_one_column():
    a, b = matrix(torch.logspace(-3, 2, 200, dtype=torch.float64)), right(200, 8)
    block = cg(a, b, tolerance=1e-8)
    single = max(cg(a, b[:, j], tolerance=1e-8).iterations for j in range(8))
    assert block.converged and block.iterations < 0.5 * single


def test_dependent_columns_and_start():
    a, b = matrix(torch.linspace(1, 5, 40)), right(40, 3)
    b = torch.cat([b, b[:, :1] * 2, torch.zeros(40, 1, dtype=torch.float64)], 1)
    found = cg(a, b, tolerance=1e-10)
    truth = torch.linalg.solve(a, b)
    assert found.converged and error(found.value, truth) <= 1e-9
    again = cg(a, b, tolerance=1e-9, x0=found.value)
    assert again.converged and again.iterations == 0
    assert cg(a, torch.zeros(40, dtype=torch.float64)).converged
    elsewhere = cg(a, b, tolerance=1e-9, x0=torch.ones_like(b))  # also of the column whose answer is 0
    assert elsewhere.converged and error(elsewhere.value, truth) <= 1e-8 and not elsewhere.value[:, -1].any()


def test_cg_stops_on_an_indefinite_direction_and_reports_it():
    a = matrix([-2.0, *torch.linspace(0.5, 5, 30).tolist()])
    for b in (right(31), right(31, 4)):
        found = cg(a, b, tolerance=1e-10)
        assert found.status == "indefinite" and not found.converged
        d = found.direction
        assert d @ a @ d <= 0 and abs(d @ a @ d / (d @ d) - found.curvature) <= 1e-9
        assert "raise damping" in found.message and "minres" in found.message
    assert cg(a, right(31), damping=2.5, tolerance=1e-10).converged
    some = cg(a, right(31), damping=1.0, tolerance=1e-10)  # of the damped matrix, and so is the advice of the whole
    needed = float(some.message.partition("raise damping above ")[2].partition(" ")[0])
    assert some.curvature > -1.0 and needed == pytest.approx(1.0 - some.curvature, rel=1e-2)
    assert cg(-torch.eye(5, dtype=torch.float64), right(5)).status == "indefinite"  # not x = 0 and a warning


def test_minres_solves_indefinite_systems_and_says_so():
    a, b = matrix([-2.0, -0.1, *torch.linspace(0.5, 5, 30).tolist()]), right(32)
    found = minres(a, b, tolerance=1e-10)
    assert found.converged and error(found.value, torch.linalg.solve(a, b)) <= 1e-7
    d = found.direction
    assert d @ a @ d <= 1e-12 and "not positive definite" in found.message
    stopped = minres(a, b, tolerance=1e-10, on_indefinite="stop")
    assert stopped.status == "indefinite" and stopped.iterations < found.iterations and stopped.curvature <= 0
    definite = minres(matrix(torch.linspace(0.1, 5, 32)), b, tolerance=1e-10)
    assert definite.converged and definite.direction is None


def test_minres_residual_recurrence_is_the_residual():
    from fastunlearn.solve.minres import _Run

    a, b = matrix([-2.0, *torch.linspace(0.5, 5, 30).tolist()]), right(31, 3)
    run = _Run(a, b, 0.3, None)
    for _ in range(12):
        run.step()
        truth = b - a @ run.x - 0.3 * run.x
        assert error(run.r, truth) <= 1e-9
        assert torch.allclose(run.residual, truth.norm(dim=0), rtol=1e-9)


@pytest.mark.parametrize("solver", [cg, minres])
def test_a_good_preconditioner_cuts_the_iterations(solver):
    values = torch.cat([torch.logspace(1, 4, 20, dtype=torch.float64), torch.full((180,), 1e-3, dtype=torch.float64)])
    a, b = matrix(values), right(200, 2)
    plain = solver(a, b, damping=0.1, tolerance=1e-8)
    better = solver(a, b, damping=0.1, tolerance=1e-8, preconditioner=nystrom(a, 30, damping=0.1))
    truth = torch.linalg.solve(a + 0.1 * torch.eye(200, dtype=torch.float64), b)
    assert better.converged and error(better.value, truth) <= 1e-6
    assert better.iterations <= plain.iterations / 3


def test_too_few_iterations_and_rounding_are_told_apart():
    a, b = matrix(torch.logspace(-6, 2, 100, dtype=torch.float64)), right(100)
    few = cg(a, b, tolerance=1e-10, max_iterations=3)
    assert few.status == "iterations" and few.iterations == 3 and "max_iterations" in few.message
    narrow = cg(a.float(), b.float(), tolerance=1e-12, max_iterations=3000)
    assert narrow.status == "stalled" and "float64" in narrow.message
    ended = minres(a.float(), b.float(), damping=1e-2, tolerance=1e-5, max_iterations=3000)
    assert ended.residuals[-1] <= 5e-6 < 1e-4 < ended.residual  # squares of the condition number in the rounding
    assert ended.status == "stalled" and "float64" in ended.message and ended.iterations < 3000
    broken = cg(torch.full((5, 5), torch.nan, dtype=torch.float64), right(5))
    assert broken.status == "indefinite" and "NaN" in broken.message


def test_nystrom_is_exact_on_its_rank_and_refuses_indefinite_matrices():
    values = torch.cat([torch.linspace(1, 9, 12), torch.zeros(51)])
    a, v = matrix(values), right(63, 2)
    found = nystrom(a, 20, damping=1e-2, at_once=7)
    assert error(found @ v, a @ v) <= 1e-8
    assert error(found.values[:12], torch.linspace(9, 1, 12, dtype=torch.float64)) <= 1e-7  # linspace above is float32
    eye = torch.eye(found.vectors.shape[1], dtype=torch.float64)
    assert torch.allclose(found.vectors.T @ found.vectors, eye, atol=1e-9)
    with pytest.raises(NotPositiveDefiniteError, match="positive semi-definite"):
        nystrom(matrix([-1.0, *[1.0] * 20]), 10, damping=1e-2)
    nothing = nystrom(torch.zeros(9, 9, dtype=torch.float64), 3, damping=0.5)
    assert torch.equal(nothing.solve(torch.ones(9, dtype=torch.float64)), torch.full((9,), 2.0, dtype=torch.float64))
    decaying = matrix(torch.logspace(0, -6, 80, dtype=torch.float64))
    good, bad = (nystrom(decaying, r, damping=1e-2) for r in (40, 5))
    ones = torch.ones(80, dtype=torch.float64)
    assert error(good @ ones, decaying @ ones) < error(bad @ ones, decaying @ ones)


@pytest.mark.parametrize("block", [1, 4])
def test_lanczos_finds_the_large_end_of_either_sign(block):
    values = torch.cat([torch.tensor([-9.0, 8.0, 7.0, -6.0]), torch.linspace(-1, 1, 96)])
    a = matrix(values)
    found = lanczos(a, 4, block=block, tolerance=1e-8)
    assert torch.allclose(found.values, torch.tensor([-9.0, 8.0, 7.0, -6.0], dtype=torch.float64), atol=1e-6)
    assert ((a @ found.vectors - found.vectors * found.values).norm(dim=0) <= 1e-6).all()
    assert found.products < 100
    whole = lanczos(matrix([3.0, 3.0, 3.0, 1.0, 0.0]), 5, block=2)  # multiple eigenvalues, and the space is used up
    assert torch.allclose(whole.values, torch.tensor([3.0, 3.0, 3.0, 1.0, 0.0], dtype=torch.float64), atol=1e-8)


@pytest.mark.parametrize("memory", ["1GB", "60KB"])
def test_conjugate_gradients_in_sample_space(tiny_gpt2, memory):
    model, some = tiny_gpt2(), make_samples((5, 9, 3, 7, 6, 8))
    g, c = true_gradients(model, some), right(6)
    gradients = SampleGradients(model, some, pad_token_id=0, memory=memory)
    w, found = solve_in_sample_space(gradients, c, 1e-2, tolerance=1e-11)
    truth = torch.linalg.solve(1e-2 * torch.eye(g.shape[1], dtype=g.dtype) + g.T @ g / 6, g.T @ c)
    assert found.converged and error(g.T @ w, truth) <= 1e-9
    helped, one = solve_in_sample_space(gradients, c, 1e-2, tolerance=1e-11, gram=g @ g.T)
    assert one.iterations == 1 and error(helped, w) <= 1e-8


@pytest.mark.parametrize("memory", ["1GB", "200kB"])  # little: layer by layer, the output layer's factors made anew
@pytest.mark.parametrize("tied", [True, False])
def test_the_sketch_is_unbiased(tiny_gpt2, tied, memory):
    model, some = tiny_gpt2(layers=2, tied=tied), make_samples((5, 9, 3, 7))
    g = true_gradients(model, some)
    gradients = SampleGradients(model, some, pad_token_id=0, memory=memory)
    truth = g @ g.T
    sketches = torch.stack([sketched_gram(gradients, 8, seed=seed) for seed in range(60)])
    single, mean = error(sketches[0], truth), error(sketches.mean(0), truth)
    assert 0.001 < single < 1.0 and mean < 0.35 * single + 0.05
    assert error(sketched_gram(gradients, 64), truth) <= 1e-9  # nothing is narrower than the sketch: exact
    with pytest.raises(InvalidInputError, match="rank="):
        sketched_gram(gradients, 0)


def test_the_models_own_operators_and_the_low_rank_preconditioner(tiny_gpt2):
    model, some = tiny_gpt2(torch.float64, layers=1), make_samples((6, 6, 6, 6, 6, 6), prompt=1)
    batch = {"input_ids": torch.stack([s.input_ids for s in some]), "labels": torch.stack([s.labels for s in some])}
    ggn = fu.GGN(model, batch, reduction="samples")
    fisher = fu.LowRankFisher(model, batch, 1e-2, kind="ggn")
    b = right(ggn.shape[0], 2)
    assert error(ggn @ b, fisher @ b - 1e-2 * b) <= 1e-6  # transformers' loss is float32
    plain = cg(ggn, b, damping=1e-2, tolerance=1e-6)
    helped = cg(ggn, b, damping=1e-2, tolerance=1e-6, preconditioner=fisher)
    assert helped.converged and helped.iterations <= 2 < plain.iterations
    assert cg(ggn.damped(1e-2), b, tolerance=1e-6).converged


@pytest.mark.parametrize(
    "options, message",
    [
        ({"b": torch.ones(3)}, "b is"),
        ({"b": torch.full((4,), torch.nan)}, "b holds NaN"),
        ({"tolerance": 0.0}, "tolerance="),
        ({"max_iterations": 0}, "max_iterations=0"),
        ({"damping": -1.0}, "damping=-1"),
    ],
)
@pytest.mark.parametrize("solver", [cg, minres])
def test_bad_input(solver, options, message):
    with pytest.raises(InvalidInputError, match=message):
        solver(torch.eye(4), **{"b": torch.ones(4), **options})


@pytest.mark.parametrize("solver", [cg, minres])
@pytest.mark.parametrize("size", [1e-60, 1e60])
def test_a_right_hand_side_beyond_the_dtype_is_not_taken_for_zero(solver, size):
    with pytest.raises(InvalidInputError, match="scale b, solve, and scale the answer back"):
        solver(torch.eye(4), torch.full((4,), size, dtype=torch.float64))


def test_minres_refuses_a_preconditioner_that_is_not_positive():
    class Minus:
        def solve(self, v):
            return -v

    with pytest.raises(InvalidInputError, match="preconditioner"):
        minres(torch.eye(4), torch.ones(4), preconditioner=Minus())
