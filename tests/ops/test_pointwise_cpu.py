"""The CPU kernels of norms, activations, gated MLP and RoPE: instruction sets, threads, strides, odd and extreme input.

Right answers as such are in test_norm.py, test_gated_mlp.py and test_rope.py, whose comparisons are used here.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastunlearn.errors import BackendUnavailableError
from fastunlearn.ops import activation, gated_mlp, norm, rope
from fastunlearn.ops._dispatch import ISA_VARIABLE
from tests.ops import test_gated_mlp, test_norm, test_rope
from tests.ops.dual_cases import check, draw, error, live_isas, needs_cpu, poisoned_memory

pytestmark = needs_cpu
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
KERNEL_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True)
def poison():
    with poisoned_memory():
        yield


@pytest.mark.parametrize("isa", live_isas())
@KERNEL_DTYPE
def test_every_instruction_set(isa, dtype, monkeypatch):
    monkeypatch.setenv(ISA_VARIABLE, isa)
    for kind in ("rms", "layer"):
        test_norm.compare(kind, test_norm.make(2, 37, 131, dtype), 1.0, test_norm.LIMIT[dtype], "cpu")
    for kind in gated_mlp.KINDS:
        v = test_gated_mlp.make(2, (3, 701), dtype)
        test_gated_mlp.compare_gated(kind, v, test_gated_mlp.LIMIT[dtype], "cpu")
        test_gated_mlp.compare_alone(kind, v, test_gated_mlp.LIMIT[dtype], "cpu")
    for interleaved in (False, True):
        test_rope.compare((3, 2, 4, 65, 42), (2, 65, 38), interleaved, dtype, "cpu")


def test_an_instruction_set_that_is_not_there(monkeypatch):
    monkeypatch.setenv(ISA_VARIABLE, "avx1024")
    x = torch.randn(2, 4)
    with pytest.raises(BackendUnavailableError, match="avx1024"):
        activation.dual_forward(x, None, "silu", backend="cpu")


def everything(dtype):
    """Results of every kernel, over shapes that several threads share."""
    v = test_norm.make(2, 4200, 40, dtype)  # more blocks of rows than one wave of the norm's sums
    args = (v["x"], v["xt"], v["weight"], v["weight_t"])
    yield from norm.layer_norm_dual_forward(*args, v["bias"], v["bias_t"], 1e-5, backend="cpu")
    yield from norm.layer_norm_dual_backward(*args, v["g"], v["h"], 1e-5, backend="cpu")
    yield from norm.rms_norm_dual_backward(*args, v["g"], v["h"], 1e-5, backend="cpu")
    v = test_gated_mlp.make(2, (5, 20001), dtype)
    args = (v["gate"], v["up"], v["gate_t"], v["up_t"])
    yield from gated_mlp.dual_forward(*args, "gelu", backend="cpu")
    yield from gated_mlp.dual_backward(*args, v["g"], v["h"], "gelu", backend="cpu")
    yield rope.apply(draw((3, 35, 70), dtype, 1)[..., :64], *test_rope.tables((35, 64), 0), backend="cpu")


@KERNEL_DTYPE
def test_threads_do_not_change_a_bit(threads, dtype):
    threads(1)
    alone = list(everything(dtype))
    for count in (2, 3, 5):
        threads(count)
        for one, other in zip(alone, everything(dtype), strict=True):
            assert torch.equal(one, other)


def test_sums_over_many_rows():
    """Sums of parameter gradients over several waves of blocks."""
    v = test_norm.make(1, 9001, 24, torch.float32)
    for kind in ("rms", "layer"):
        test_norm.compare(kind, v, 0.0, test_norm.LIMIT[torch.float32], "cpu")


def spread(value, how):
    """The same numbers with other strides: halves of a wider row, transposed, or repeated rows."""
    if value is None or how == "plain":
        return value
    if how == "wide":
        wide = torch.full((*value.shape[:-1], 2 * value.shape[-1] + 3), float("nan"), dtype=value.dtype)
        wide[..., 3 : 3 + value.shape[-1]] = value
        return wide[..., 3 : 3 + value.shape[-1]]
    return value.transpose(-1, -2).contiguous().transpose(-1, -2)


STRIDES = st.sampled_from(["plain", "wide", "transposed"])
SIZES = st.sampled_from([1, 2, 3, 5, 16, 33, 63, 127, 600])
DTYPE = st.sampled_from(DTYPES)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["rms", "layer"]), st.integers(1, 4), SIZES, SIZES, DTYPE,
       st.lists(STRIDES, min_size=4, max_size=4), st.sampled_from([0.0, 1.0]))  # fmt: skip
def test_norms_over_shapes_and_strides(kind, k, n, d, dtype, strides, offset):
    d = max(d, 3)  # with fewer channels a normalised row is rounding alone
    v = test_norm.make(k, n, d, dtype)
    for name, how in zip(("x", "xt", "g", "h"), strides, strict=True):
        v[name] = spread(v[name], how)
    # Few channels: gradients are small differences of large numbers, and rare rows of small variance decide.
    limit = test_norm.LIMIT[dtype] * (1 if d > 30 else 50)
    test_norm.compare(kind, v, offset, limit, "cpu")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(gated_mlp.KINDS), st.integers(1, 4), st.lists(SIZES, min_size=2, max_size=2), DTYPE,
       st.lists(STRIDES, min_size=6, max_size=6), st.sets(st.sampled_from(["gate_t", "up_t", "g", "h"])))  # fmt: skip
def test_gated_over_shapes_and_strides(kind, k, shape, dtype, strides, left_out):
    v = test_gated_mlp.make(k, tuple(shape), dtype)
    for name, how in zip(list(v), strides, strict=True):
        v[name] = None if name in left_out else spread(v[name], how)
    test_gated_mlp.compare_gated(kind, v, test_gated_mlp.LIMIT[dtype], "cpu")
    test_gated_mlp.compare_alone(kind, v, test_gated_mlp.LIMIT[dtype], "cpu")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 4), max_size=4), st.integers(1, 70), st.integers(1, 40), st.integers(0, 20), DTYPE,
       st.booleans(), st.booleans(), st.booleans())  # fmt: skip
def test_rope_over_shapes_and_strides(lead, length, half, rest, dtype, interleaved, turned, batched):
    shape = (*lead, length, 2 * half + rest)
    batch = None if not batched or not lead else shape[-4] if len(shape) > 3 else shape[0] if len(shape) == 3 else None
    table = (length, 2 * half) if batch is None else (batch, length, 2 * half)
    test_rope.compare(shape, table, interleaved, dtype, "cpu", turned=turned)


@pytest.mark.parametrize("kind", gated_mlp.KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_curves_over_all_magnitudes(kind, dtype):
    """f, f', f'' by elements: absolute error in units of max(1, |f|), and relative error of f in the tails."""
    size = torch.logspace(-30, 4, 20001, dtype=torch.float64)
    x = torch.cat([-size, torch.zeros(1), size]).to(dtype)
    one = torch.ones_like(x)
    y, yt = activation.dual_forward(x, one[None], kind, backend="cpu")
    _, hx = activation.dual_backward(x, one[None], one, None, kind, backend="cpu")
    truth = activation.reference.derivatives(x.double(), kind)
    limit = {torch.float32: 4e-7, torch.float64: 2e-15}[dtype]
    for got, want in zip((y, yt[0], hx[0]), truth, strict=True):
        assert torch.isfinite(got).all()
        assert ((got.double() - want).abs() / want.abs().clamp_min(1)).max() <= limit
    tail = truth[0].abs() > 1e-30
    assert ((y.double() - truth[0]).abs() / truth[0].abs())[tail].max() <= 50 * limit


def test_nan_and_infinity_stay():
    bad = torch.tensor([float("nan"), 1.0, float("inf")])
    for kind in gated_mlp.KINDS:
        y, _ = activation.dual_forward(bad, None, kind, backend="cpu")
        assert y[0].isnan() and y[1].isfinite(), kind
    half, _ = activation.dual_forward(bad.bfloat16(), None, "relu", backend="cpu")
    assert half[0].isnan() and half[2].isinf()
    y, _ = norm.rms_norm_dual_forward(bad[None].repeat(2, 1), None, torch.ones(3), None, 1e-5, backend="cpu")
    assert y[:, 0].isnan().all()


@pytest.mark.parametrize("scale", [1e-18, 1e-4, 1e4, 1e15])
@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_norms_at_extreme_scales(scale, shift):
    """Rows far from the unit scale, and with a mean far from 0: no worse than eager PyTorch in float32."""
    x = (draw((9, 127), torch.float64, 0) + shift) * scale
    x[3] = 0
    x = x.float()
    weight, bias = torch.ones(127), torch.zeros(127)
    for name, function in (("rms_norm", torch.nn.functional.rms_norm), ("layer_norm", torch.nn.functional.layer_norm)):
        extra = () if name == "rms_norm" else (bias, None)
        y, _ = getattr(norm, f"{name}_dual_forward")(x, None, weight, None, *extra, 1e-5, backend="cpu")
        eager, truth = function(x, (127,), weight, eps=1e-5), function(x.double(), (127,), eps=1e-5)
        assert error(y, truth, floor=1e-20) <= 2 * error(eager, truth, floor=1e-20) + 2e-6


def test_norm_of_a_constant_row():
    """A row without variance: LayerNorm's derivative is r = eps^-1/2 times what is centred; nothing overflows."""
    v = test_norm.make(2, 3, 64, torch.float32)
    v["x"] = torch.full((3, 64), 7.0)
    test_norm.compare("layer", v, 0.0, 1e-4, "cpu")


def test_negative_control():
    """The comparison sees a wrong element, a wrong sign and a result that was not written."""
    v = test_gated_mlp.make(2, (3, 63), torch.float32)
    args = (v["gate"], v["up"], v["gate_t"], v["up_t"], v["g"], v["h"], "silu")
    right = gated_mlp.dual_backward(*args, backend="reference")[2]
    for spoil in (
        lambda t: t[1, 2].__setitem__(62, t[1, 2, 62] + 0.01),
        torch.Tensor.neg_,
        lambda t: t[0].fill_(float("nan")),
    ):
        got = gated_mlp.dual_backward(*args, backend="cpu")[2]
        check(got, right, 2e-5, "h_gate")
        spoil(got)
        with pytest.raises(AssertionError, match="h_gate"):
            check(got, right, 2e-5, "h_gate")


def test_a_dtype_that_the_kernels_lack():
    x = torch.randn(4, 8).half()
    with pytest.raises(BackendUnavailableError, match="float16"):
        activation.dual_forward(x, None, "silu", backend="cpu")
    y, _ = activation.dual_forward(x, None, "silu")
    assert torch.equal(y, activation.dual_forward(x, None, "silu", backend="reference")[0])
