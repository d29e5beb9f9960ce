"""The compiled matrix products of the linear op against the reference in float64."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastunlearn.errors import BackendUnavailableError
from fastunlearn.ops import linear as op
from fastunlearn.ops.linear import cpu
from tests.ops.linear_cases import check, error, live_isas, needs_cpu, sums
from tests.ops.test_linear import FORWARD, inputs, run

pytestmark = needs_cpu
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
# rows, in, out: single elements, odd sizes, and more than one block of gemm.cpp (144 rows, 1024 columns, 256 deep).
SHAPES = [(1, 1, 1), (63, 127, 31), (150, 300, 1030), (301, 1050, 150), (2, 600, 7)]


def agree(c: dict) -> None:
    dtype = c["x"].dtype
    truth = run({n: None if v is None else v.double() for n, v in c.items()}, "reference")
    for name, value in run(c, "cpu").items():
        assert value.dtype == (sums(dtype) if name in "wb" else dtype) and value.is_contiguous()
        check(value, truth[name], dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("streams", [1, 3])
def test_against_float64(dtype, shape, streams):
    agree(inputs(*shape, streams, dtype))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 160), width=st.integers(1, 90), height=st.integers(1, 90), streams=st.sampled_from([1, 3]),
    dtype=st.sampled_from(DTYPES), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_shape(rows, width, height, streams, dtype, seed):
    agree(inputs(rows, width, height, streams, dtype, seed))


@pytest.mark.parametrize("isa", live_isas())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_instruction_set(isa, dtype, monkeypatch):
    monkeypatch.setenv("FASTUNLEARN_CPU_ISA", isa)
    for number, shape in enumerate(SHAPES):
        agree(inputs(*shape, 2, dtype, seed=number))


@pytest.mark.parametrize("isa", live_isas())
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_overwrites_poison_and_nothing_else(isa, turned, dtype):
    """c is a window of a larger array: inside, NaN is overwritten; outside, nothing changes."""
    for rows, columns, depth in [(1, 1, 1), (13, 33, 5), (150, 70, 300), (147, 1029, 17), (5, 9, 0)]:
        a, b = torch.randn(rows, depth).to(dtype), torch.randn(columns, depth).to(dtype)
        a, b = (a.T.contiguous().T, b.T.contiguous().T) if turned else (a, b)
        around = torch.full((rows + 2, columns + 7), float("nan"), dtype=sums(dtype))
        cpu.gemm([b], [(around[1:-1, 3:-4], False, [(a, 0)])], isa)
        check(around[1:-1, 3:-4].clone(), a.double() @ b.double().T, torch.float32)
        around[1:-1, 3:-4] = float("nan")
        assert bool(around.isnan().all())


def test_threads_do_not_change_a_bit(threads):
    c, results = inputs(200, 530, 300, 2, torch.float32), []
    for count in (1, 2, 3, 5):
        threads(count)
        results.append(run(c, "cpu"))
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in other)


def test_weight_product_adds_whatever_the_layout():
    c = inputs(70, 33, 45, 2, torch.float32)
    truth = 1 + c["h"].double().mT @ c["x"].double() + c["g"].double().T @ c["xt"].double()
    for out in (torch.ones(2, 45, 33), torch.ones(2, 33, 45).mT, torch.ones(2, 45, 33, dtype=torch.float64),
                torch.ones(2, 45, 66)[..., ::2], torch.ones(45, 2, 33).transpose(0, 1)):  # fmt: skip
        check(op.weight_product(c["x"], c["xt"], c["g"], c["h"], out, backend="cpu"), truth, torch.float32)
    for left in ({"g": None}, {"xt": None}, {"h": None}):
        some = c | left
        want = op.weight_product(*(some[n] for n in ("x", "xt", "g", "h")), torch.ones(2, 45, 33), backend="reference")
        for out in (torch.ones(2, 45, 33), torch.ones(2, 33, 45).mT):
            got = op.weight_product(*(some[n] for n in ("x", "xt", "g", "h")), out, backend="cpu")
            check(got, want, torch.float32)


def test_any_strides():
    c = inputs(70, 33, 45, 2, torch.float32)
    strided = {n: v.mT.contiguous().mT if v.dim() > 1 else v for n, v in c.items()}
    strided["x"] = torch.cat([c["x"], c["x"]], 1)[:, 33:]
    strided["h"] = c["h"].transpose(0, 1).contiguous().transpose(0, 1)
    strided["g"] = c["g"][:1].expand(70, 45)
    truth = run({n: v.double() for n, v in (c | {"g": strided["g"]}).items()}, "reference")
    for name, value in run(strided, "cpu").items():
        check(value, truth[name], torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("turned", [False, True])
def test_streams_that_are_columns_of_one_matrix(dtype, turned):
    """Tangents K elements apart, of K = 5 and as three of the five; also of a weight that is stored transposed."""
    c = inputs(70, 33, 45, 5, dtype)
    apart = c["weight_t"].permute(2, 1, 0).contiguous().permute(2, 1, 0) if turned else None
    apart = c["weight_t"].permute(1, 2, 0).contiguous().permute(2, 0, 1) if apart is None else apart
    assert apart.stride(0) == 1 and torch.equal(apart, c["weight_t"])
    agree(c | {"weight_t": apart})
    agree({n: v[1:4] if n in ("xt", "bias_t", "h") else v for n, v in c.items()} | {"weight_t": apart[1:4]})


@pytest.mark.parametrize("rows", [0, 1])
def test_few_tokens(rows):
    agree(inputs(rows, 5, 4, 2, torch.float32))


def test_float16_is_the_references():
    c = inputs(5, 4, 3, 1, torch.float16)
    assert torch.equal(op.dual_forward(c["x"], None, c["weight"], None)[0], run(c | {"bias": None}, "reference")["y"])
    with pytest.raises(BackendUnavailableError, match="cpu"):
        op.dual_forward(c["x"], None, c["weight"], None, backend="cpu")


def test_bfloat16_by_the_library_and_by_our_own_products(monkeypatch):
    """Whichever multiplies, with any tangents missing, the results are within one rounding of float64."""
    c = inputs(70, 96, 45, 2, torch.bfloat16)
    for own in (False, True):
        monkeypatch.setenv("FASTUNLEARN_CPU_ISA", live_isas()[-1] if own else "")
        agree(c)
        for gone in (["xt"], ["weight_t"], ["bias_t"], ["xt", "weight_t"], ["weight_t", "bias_t"], ["g"], ["h"]):
            left = c | dict.fromkeys(gone)
            wide = {n: None if v is None else v.double() for n, v in left.items()}
            for names, function in ((FORWARD, op.dual_forward), (("weight", "weight_t", "g", "h"), op.dual_backward)):
                got = function(*(left[n] for n in names), backend="cpu")
                want = function(*(wide[n] for n in names), backend="reference")
                for value, truth in zip(got, want, strict=True):
                    check(value, truth, torch.bfloat16)


@pytest.mark.parametrize("width", [33, 144, 160])
def test_nan_stays_in_its_row(width):
    """bfloat16 by the library, whose tiles are 32 columns wide: neither the next row nor what lies between rows comes
    in, and no row loses its NaN."""
    c = inputs(70, width, 45, 2, torch.bfloat16)
    between = torch.full((70, width + 9), float("nan"), dtype=torch.bfloat16)
    between[:, :width] = c["x"]
    agree(c | {"x": between[:, :width]})
    agree(c | {"x": between[:, :width], "xt": None})
    for name in ("x", "xt"):
        bad = c[name].clone()
        bad[..., 5, 0] = float("nan")
        some = c | {name: bad}
        yt = op.dual_forward(*(some[n] for n in FORWARD), backend="cpu")[1]
        assert yt.isnan().all(2).nonzero()[:, 1].tolist() == [5, 5]
        assert int(yt.isnan().any(2).sum()) == 2


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer ends a process that asks so")
def test_after_memory_ran_out():
    """Working memory that is kept from call to call is there again after a call that found none."""
    x, weight = torch.randn(7, 5), torch.randn(9, 5)
    truth = op.dual_forward(x, None, weight, None, backend="cpu")[0]
    y = torch.empty(7, 9)
    problem = (9, [(cpu.matrix(weight), 5)], [(y.data_ptr(), 7, 9, False, [(cpu.matrix(x), 0)])], 0)
    with pytest.raises(MemoryError):
        cpu.extension("cpu").gemm(cpu.cpu_isa(), False, *problem, 10**9)  # some 10^14 bytes for as many threads
    cpu.extension("cpu").gemm(cpu.cpu_isa(), False, *problem, 1)
    assert torch.equal(y, truth)


def test_the_check_fails_on_a_lost_slab():
    """A depth block that is left out is seen by the threshold."""
    c = inputs(20, 600, 30, 1, torch.float32)
    truth = c["x"].double() @ c["weight"].double().T
    cut = op.dual_forward(c["x"][:, :512], None, c["weight"][:, :512], None, backend="cpu")[0]
    assert error(cut, truth) > 1e-2
