"""Explicit rows, weighted gradients and small Cholesky solves: the reference here, the CUDA kernels where a GPU is."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from fastunlearn.errors import BackendUnavailableError, InvalidInputError
from fastunlearn.ops import _dispatch, explicit_rows, small_cholesky
from fastunlearn.ops._dispatch import why_not_live
from fastunlearn.ops.weighted_gradient import weighted_gradient
from tests.ops import sample_space_cases as cases

REASON = why_not_live("cuda")
PLACES = [
    pytest.param(("reference", "cpu"), id="reference"),
    pytest.param(
        ("cuda", "cuda"), id="cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(bool(REASON), reason=f"cuda backend: {REASON}")],
    ),
]  # fmt: skip
FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
@pytest.mark.parametrize("size", cases.ROWS, ids=str)
def test_explicit_rows(size, dtype, strided, place):
    cases.check_explicit_rows(dtype, size, strided, *place)


def test_explicit_rows_in_float64():
    cases.check_explicit_rows(torch.float64, (5, 200), True, "reference", "cpu")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("weighted, strided", [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("size", cases.GRADIENTS, ids=str)
def test_weighted_gradient(size, dtype, weighted, strided, place):
    cases.check_weighted_gradient(dtype, size, weighted, strided, *place)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_weights_of_a_solve(dtype, place):
    cases.check_weights_of_a_solve(dtype, *place)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("size, weight", [(1.0, 1e5), (1e-3, 1e-5)])
def test_range_of_weights(size, weight, place):
    cases.check_range_of_weights(size, weight, *place)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", cases.SYSTEMS, ids=str)
def test_small_cholesky(size, dtype, place):
    cases.check_small_cholesky(dtype, size, *place)


def test_many_blocks_of_columns(monkeypatch):
    """The reference widens some columns at a time; scales follow."""
    from fastunlearn.ops.explicit_rows import reference

    monkeypatch.setattr(reference, "COLUMNS", 100)
    cases.check_explicit_rows(torch.int8, (3, 1000), False, "reference", "cpu")
    cases.check_explicit_rows(torch.bfloat16, (3, 1000), False, "reference", "cpu")


def test_refusals():
    rows, v = torch.zeros(3, 40), torch.zeros(40)
    with pytest.raises(InvalidInputError, match="int8 rows need scales"):
        explicit_rows.matvec(rows.to(torch.int8), v)
    with pytest.raises(InvalidInputError, match="multiple of 16"):
        explicit_rows.matvec(rows, v, torch.zeros(3, 4), 12)
    with pytest.raises(InvalidInputError, match=r"scales must be \(3, 3\)"):
        explicit_rows.matvec(rows, v, torch.zeros(3, 4), 16)
    with pytest.raises(InvalidInputError, match=r"v must be \(40,\)"):
        explicit_rows.matvec(rows, v[:5])
    with pytest.raises(InvalidInputError, match="contiguous"):
        explicit_rows.rmatvec(rows, torch.zeros(3), out=torch.zeros(80)[::2])
    with pytest.raises(InvalidInputError, match="weights must be"):
        weighted_gradient(rows, rows, torch.zeros(4), torch.zeros(40, 40))
    with pytest.raises(InvalidInputError, match="of one floating dtype"):
        weighted_gradient(rows, rows.double(), None, torch.zeros(40, 40))
    with pytest.raises(InvalidInputError, match="a must be"):
        small_cholesky.solve(rows, rows)
    with pytest.raises(InvalidInputError, match="rhs must be"):
        small_cholesky.solve(torch.eye(3)[None], torch.zeros(1, 4, 1))
    if REASON:
        with pytest.raises(BackendUnavailableError, match="cuda"):
            small_cholesky.solve(torch.eye(3)[None], torch.zeros(1, 3, 1), backend="cuda")


@pytest.mark.parametrize("variable, argument", [("reference", "cuda"), ("cuda", "reference"), ("nonsense", "cuda")])
def test_small_cholesky_heeds_its_argument_before_the_environment(gpu, monkeypatch, variable, argument):
    """On a GPU the size of the systems decides whether "cuda" is offered; what the variable says must not."""
    chosen = []
    module = small_cholesky.backend_module
    monkeypatch.setattr(small_cholesky, "backend_module", lambda *name: chosen.append(name[1]) or module(*name))
    monkeypatch.setenv("FASTUNLEARN_BACKEND", variable)
    with gpu("cuda"):
        a, rhs = (2 * torch.eye(3))[None].to("cuda"), torch.ones(1, 3, 1).to("cuda")
        x, _ = small_cholesky.solve(a, rhs, backend=argument)
        assert chosen == [argument] and torch.allclose(x.cpu(), torch.full((1, 3, 1), 0.5))
        too_large = torch.eye(2000)[None].to("cuda")
        with pytest.raises(BackendUnavailableError, match="no such backend"):
            small_cholesky.solve(too_large, torch.ones(1, 2000, 1).to("cuda"), backend="cuda")


def test_small_cholesky_where_the_kernel_is_not_there(gpu, monkeypatch):
    monkeypatch.setenv("FASTUNLEARN_BACKEND", "cuda")
    missing = mock.patch.object(_dispatch, "why_not_live", lambda name: "" if name == "reference" else "not built")
    with gpu("cuda"), missing:
        a, rhs = torch.eye(3)[None].to("cuda"), torch.ones(1, 3, 1).to("cuda")
        assert torch.equal(small_cholesky.solve(a, rhs, backend="reference")[0].cpu(), torch.ones(1, 3, 1))
        with pytest.raises(BackendUnavailableError, match="not built"):
            small_cholesky.solve(a, rhs)
