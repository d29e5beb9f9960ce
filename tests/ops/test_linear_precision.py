"""float32 products of the linear layers by bfloat16 instructions, against float64; and whose setting it is."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastunlearn as fu
from fastunlearn.errors import BackendUnavailableError, InvalidInputError
from fastunlearn.ops import linear as op
from tests.ops.linear_cases import error, live_isas, needs_cpu
from tests.ops.test_linear import inputs, run

#: Largest error over the largest element. An operand's own rounding is 2^-9 and 2^-17 of it.
TOLERANCE = {"float32": 2e-6, "bf16": 1.5e-2, "bf16x3": 4e-5}


def _capable() -> list[str]:
    if not live_isas():
        return []
    from fastunlearn import _cpu

    return [isa for isa in live_isas() if _cpu.has_bfloat16_products(isa)]


needs_products = pytest.mark.skipif(not _capable(), reason="this CPU has no bfloat16 dot products (AVX512-BF16)")


def truth(c: dict) -> dict:
    return run({n: None if v is None else v.double() for n, v in c.items()}, "reference")


def errors(c: dict) -> float:
    want = truth(c)
    return max(error(value, want[name]) for name, value in run(c, "cpu").items() if name != "b")


@needs_products
@pytest.mark.parametrize("mode", ["bf16", "bf16x3"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (63, 127, 31), (150, 300, 1030), (301, 1050, 150), (2, 601, 7)], ids=str)
@pytest.mark.parametrize("streams", [1, 3])
def test_error_against_float64(mode, shape, streams):
    with fu.precision(mode):
        assert errors(inputs(*shape, streams, torch.float32)) <= TOLERANCE[mode]


@needs_cpu
@pytest.mark.parametrize("shape", [(1, 1, 1), (63, 127, 31), (301, 1050, 150), (7, 601, 2)], ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_weight_products_of_bfloat16_lose_nothing(shape, transposed):
    """On bfloat16 instructions, where the CPU has them: operands as they are, sums in float32."""
    c = inputs(*shape, 2, torch.bfloat16)
    x, xt, g, h = (c[name] for name in ("x", "xt", "g", "h"))
    out = torch.zeros(2, x.shape[1], g.shape[1]).mT if transposed else torch.zeros(2, g.shape[1], x.shape[1])
    want = op.weight_product(x.double(), xt.double(), g.double(), h.double(), out.double(), backend="reference")
    assert error(op.weight_product(x, xt, g, h, out, backend="cpu"), want) < 2e-6


@needs_products
@pytest.mark.parametrize("isa", _capable())
@pytest.mark.parametrize("half", [True, False])
def test_which_products_are_of_bfloat16(isa, half, monkeypatch):
    from fastunlearn.ops.linear import _precision, cpu

    modes, plain = [], cpu.extension("cpu")

    class Spy:
        has_bfloat16_products = staticmethod(plain.has_bfloat16_products)

        def gemm(self, *arguments):
            modes.append(arguments[-2])

    monkeypatch.setattr(cpu, "extension", lambda name: Spy())
    a, b = torch.randn(5, 7).bfloat16(), torch.randn(6, 7).bfloat16()
    cpu.gemm([b], [(torch.empty(5, 6), False, [(a if half else a.float(), 0)])], isa)
    assert modes == [_precision.MODES["bf16" if half else "float32"]]


@needs_cpu
def test_bfloat16_beside_float32_is_widened():
    from fastunlearn.ops.linear import cpu

    torch.manual_seed(0)
    a, b, c = torch.randn(33, 65).bfloat16(), torch.randn(40, 65), torch.empty(33, 40)
    cpu.gemm([b], [(c, False, [(a, 0)])])
    assert error(c, a.double() @ b.double().T) < 2e-6


@needs_products
@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 160), width=st.integers(8, 90), height=st.integers(8, 90), streams=st.sampled_from([1, 3]),
    mode=st.sampled_from(["bf16", "bf16x3"]), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_shape(rows, width, height, streams, mode, seed):
    with fu.precision(mode):
        assert errors(inputs(rows, width, height, streams, torch.float32, seed)) <= TOLERANCE[mode]


@needs_products
def test_each_mode_is_what_it_says():
    """The error falls from mode to mode: none of them runs in another's place."""
    c, found = inputs(150, 300, 200, 2, torch.float32), {}
    for mode in TOLERANCE:
        with fu.precision(mode):
            found[mode] = errors(c)
    assert found["bf16"] > 1e-3 and found["bf16"] > 100 * found["bf16x3"] and found["bf16x3"] > 2 * found["float32"]
    assert found["float32"] <= TOLERANCE["float32"]


@needs_products
@pytest.mark.parametrize("mode", ["bf16", "bf16x3"])
def test_strides_threads_and_sums(mode, threads):
    c = inputs(130, 290, 145, 2, torch.float32)
    turned = {n: v.mT.contiguous().mT if v.dim() > 1 else v for n, v in c.items()}
    results = []
    with fu.precision(mode):
        for count in (1, 2, 3):
            threads(count)
            results.append(run(c, "cpu"))
            assert errors(turned) <= TOLERANCE[mode]
        out = torch.full((2, 145, 290), 2.0)
        op.weight_product(c["x"], c["xt"], c["g"], c["h"], out, backend="cpu")
    assert all(torch.equal(one[name], results[0][name]) for one in results for name in one)
    assert error(out, truth(c)["w"] + 2) <= TOLERANCE[mode]


@needs_products
@pytest.mark.parametrize("mode", ["bf16", "bf16x3"])
def test_extreme_numbers(mode):
    """Whole numbers that bfloat16 has are exact; huge ones come out; nothing infinite or NaN is hidden."""
    x, w = torch.tensor([[1.0, -3.0, 128.0]]), torch.tensor([[2.0, 5.0, 0.5], [1e30, 0, 0], [3e38, 0, 0]])
    with fu.precision(mode):
        y = op.dual_forward(x, None, w, None, backend="cpu")[0]
        assert y[0, 0] == 51.0 and abs(y[0, 1] / 1e30 - 1) < 4e-3 and abs(y[0, 2] / 3e38 - 1) < 4e-3
        for bad in (torch.inf, torch.nan):
            y = op.dual_forward(torch.tensor([[bad, 1.0, 1.0]]), None, w[:1], None, backend="cpu")[0]
            assert not bool(torch.isfinite(y).any())


@needs_products
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes_are_not_touched(dtype):
    c = inputs(20, 30, 10, 1, dtype)
    plain = run(c, "cpu")
    with fu.precision("bf16"):
        assert all(torch.equal(value, plain[name]) for name, value in run(c, "cpu").items())


@needs_products
def test_hessian_of_a_model():
    from tests.operators.conftest import make_batches, make_tiny

    model, batches = make_tiny(torch.float32), make_batches()
    v = torch.randn(fu.Hessian(model, batches).shape[0], generator=torch.Generator().manual_seed(0))
    exact = (fu.Hessian(make_tiny(), batches) @ v.double()).float()
    found = {}
    for mode in TOLERANCE:
        with fu.precision(mode):
            found[mode] = error(fu.Hessian(model, batches) @ v, exact)
    assert found["bf16x3"] < 1e-4 < found["bf16"] < 5e-2


@needs_cpu
@pytest.mark.parametrize("isa", [isa for isa in live_isas() if isa not in _capable()])
def test_without_the_instructions_it_raises(isa, monkeypatch):
    monkeypatch.setenv("FASTUNLEARN_CPU_ISA", isa)
    c = inputs(5, 6, 7, 1, torch.float32)
    with fu.precision("bf16x3"), pytest.raises(BackendUnavailableError, match="bfloat16"):
        run(c, "cpu")
    run(c, "cpu")


def test_other_backends_raise():
    c = inputs(5, 6, 7, 1, torch.float32)
    with fu.precision("bf16"), pytest.raises(BackendUnavailableError, match="reference"):
        run(c, "reference")


def mode() -> str:
    from fastunlearn.ops.linear._precision import mode_of

    return mode_of(torch.float32, "cpu")


def test_it_ends_with_the_block_and_is_the_threads_own():
    seen = []
    with fu.precision("bf16"):
        with fu.precision("bf16x3"):
            assert mode() == "bf16x3"
        assert mode() == "bf16"
        other = threading.Thread(target=lambda: seen.append(mode()))
        other.start()
        other.join()
        with pytest.raises(InvalidInputError, match="float32, bf16, bf16x3"), fu.precision("half"):
            pass
        assert mode() == "bf16"
    with pytest.raises(ValueError, match="on purpose"), fu.precision("bf16"):
        raise ValueError("on purpose")
    assert (mode(), seen) == ("float32", ["float32"])
