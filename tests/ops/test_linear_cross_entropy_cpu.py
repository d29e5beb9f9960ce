"""The compiled linear + cross-entropy against the reference in float64: shapes, strides, extremes, chunks, threads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastunlearn.errors import BackendUnavailableError
from fastunlearn.ops import linear_cross_entropy as op
from fastunlearn.ops.linear_cross_entropy import cpu
from tests.ops.linear_cases import HeadCase, check, error, head_case, live_isas, needs_cpu, sums
from tests.ops.test_linear_cross_entropy import LAYERS, backward, ggn, hessian
from tests.ops.thresholds import LINEAR

pytestmark = needs_cpu
RUNS = [hessian, ggn, backward]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def agree(case: HeadCase, run=hessian, factor: float = 1.0) -> None:
    """Every result of ``run`` on the cpu backend against the reference in float64 on the same (rounded) inputs."""
    truth = run(case.to(torch.float64), "reference")
    for name, value in run(case, "cpu").items():
        assert value.dtype == (sums(case.x.dtype) if name in "wb" else case.x.dtype)
        check(value, truth[name], case.x.dtype, factor)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_against_float64(run, dtype, layer):
    agree(head_case(63, 33, 1027, 3, dtype=dtype, **layer), run)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values(dtype):
    case = head_case(65, 31, 4999, 2, dtype=dtype, bias=True, softcap=5.0)
    truth = case.to(torch.float64)
    nll, nll_t = op.dual_forward(*case.tangents(), bias_t=case.bias_t, **case.layer(), backend="cpu")
    want, want_t = op.dual_forward(*truth.tangents(), bias_t=truth.bias_t, **truth.layer(), backend="reference")
    check(nll, want, dtype)
    check(nll_t, want_t, dtype)
    check(op.forward(case.x, case.weight, case.labels, **case.layer(), backend="cpu"), want, dtype)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 70), width=st.integers(1, 70), vocabulary=st.sampled_from([1, 2, 63, 127, 1000, 2049]),
    streams=st.sampled_from([1, 3]), bias=st.booleans(), softcap=st.sampled_from([None, 0.5, 30.0]),
    scale=st.sampled_from([1.0, 0.25, -2.0]), masked=st.sampled_from([0.0, 0.4, 1.0]), seed=st.integers(0, 99),
    run=st.sampled_from(RUNS), dtype=st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
@example(1, 1, 63, 3, False, 0.5, 1.0, 0.0, 5, hessian, torch.float32)  # a label at tanh(3.65)
def test_any_shape(rows, width, vocabulary, streams, bias, softcap, scale, masked, seed, run, dtype):
    agree(head_case(rows, width, vocabulary, streams, dtype=dtype, bias=bias, softcap=softcap, logit_scale=scale,
                    masked=masked, seed=seed), run)  # fmt: skip


@pytest.mark.parametrize("isa", live_isas())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_every_instruction_set(isa, dtype, layer, monkeypatch):
    monkeypatch.setenv("FASTUNLEARN_CPU_ISA", isa)
    agree(head_case(37, 29, 1111, 2, dtype=dtype, **layer))


@pytest.mark.parametrize("width", [255, 700, 1030])
@pytest.mark.parametrize("run", RUNS)
def test_bfloat16_inputs_are_multiplied_as_they_are(run, width):
    """Also on bfloat16 instructions, where the CPU has them: what is summed in float32 is right to its digits."""
    case = head_case(70, width, 333, 2, dtype=torch.bfloat16)
    truth = run(case.to(torch.float64), "reference")
    assert error(run(case, "cpu")["w"], truth["w"]) < 1e-5


@pytest.mark.parametrize("gone", [("xt",), ("weight_t",), ("xt", "weight_t"), ("xt", "bias_t"), ("weight_t", "bias_t")])
@pytest.mark.parametrize("run", [hessian, ggn])
def test_a_tangent_that_is_none_is_zero(gone, run):
    case = head_case(20, 12, 300, 2, dtype=torch.float32, bias=True, softcap=3.0)
    agree(replace(case, **dict.fromkeys(gone)), run)


@pytest.mark.parametrize("run", RUNS)
def test_what_is_not_needed_is_none(run):
    case = head_case(20, 12, 300, 2, dtype=torch.float32)
    function = {hessian: op.hessian_product, ggn: op.ggn_product, backward: op.backward}[run]
    tangents = (case.x, case.weight, case.labels) if run is backward else case.tangents()
    values = function(*tangents, case.token_weights, need_x=False, backend="cpu")
    truth = run(case.to(torch.float64), "reference")
    check(values[0], truth["nll"], torch.float32)
    assert all(value is None for value in values[1 if run is backward else 2 :])


@pytest.mark.parametrize("run", RUNS)
def test_sums_are_added_to(run):
    case = head_case(40, 16, 500, 2, dtype=torch.float32, bias=True)
    plain, raised = run(case, "cpu"), run(case, "cpu", fill=3.0)
    for name in "wb":
        assert error(raised[name], plain[name] + 3.0) <= 1e-6
    for name in set(plain) - set("wb"):
        assert torch.equal(plain[name], raised[name])


def test_strided_and_wide_sums():
    """An accumulator in float64, or one that is a transposed view, gets the same additions."""
    case = head_case(40, 16, 500, 2, dtype=torch.float32)
    truth = hessian(case.to(torch.float64), "reference")["w"]
    wide, turned, cut = torch.ones(2, 500, 16, dtype=torch.float64), torch.ones(2, 16, 500).mT, torch.ones(2, 500, 40)
    for out in (wide, turned, cut[..., :16]):
        op.hessian_product(*case.tangents(), case.token_weights, True, out, backend="cpu")
        check(out, truth + 1, torch.float32)


@pytest.mark.parametrize("run", [hessian, ggn])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_groups_of_streams(run, layer, dtype, monkeypatch):
    """Five streams, which are the columns of one matrix, all at once, two by two and one by one; also with one token
    whose label is all but certain."""
    case = head_case(70, 24, 700, 5, dtype=dtype, **layer)
    case.weight[case.labels[0].clamp(min=0)] = 3 * case.x[0]
    case = replace(case, weight_t=case.weight_t.permute(1, 2, 0).contiguous().permute(2, 0, 1))
    assert case.weight_t.stride(0) == 1
    line = 700 * 32 * sums(dtype).itemsize
    for size in (100 * line, 3 * line, 1):
        monkeypatch.setattr(cpu, "LOGIT_BYTES", size)
        agree(case, run)


def test_sums_whose_streams_lie_apart():
    """Accumulators that are parts of one flat vector per stream get the same additions, and nothing beside them."""
    case = head_case(40, 16, 500, 3, dtype=torch.float32, bias=True)
    truth, flat = hessian(case.to(torch.float64), "reference"), torch.ones(3, 9000)
    w, b = flat[:, 100:8100].view(3, 500, 16), flat[:, 8200:8700]
    options = {**case.layer(), "bias_t": case.bias_t, "backend": "cpu"}
    op.hessian_product(*case.tangents(), case.token_weights, True, w, b, **options)
    check(w, truth["w"] + 1, torch.float32)
    check(b, truth["b"] + 1, torch.float32)
    assert all(bool((flat[:, cut] == 1).all()) for cut in (slice(100), slice(8100, 8200), slice(8700, None)))


@pytest.mark.parametrize("value", [-torch.inf, -1e30])
def test_entries_that_a_bias_leaves_out(value):
    """A stretch of the vocabulary longer than any block whose bias is -infinity: it has no share in anything."""
    case = head_case(30, 8, 900, 2, dtype=torch.float32, bias=True, masked=0.0)
    case.bias[300:800], case.labels[:] = value, case.labels % 300
    truth = hessian(case.to(torch.float64), "reference")
    for name, got in hessian(case, "cpu").items():
        check(got, truth[name], torch.float32)


@pytest.mark.parametrize("run", RUNS)
def test_any_strides(run):
    case = head_case(40, 16, 500, 2, dtype=torch.float32, bias=True)
    wide = torch.randn(40, 3, 16)
    wide[:, 1] = case.x
    strided = replace(
        case, x=wide[:, 1], xt=case.xt.mT.contiguous().mT, weight=case.weight.T.contiguous().T,
        weight_t=case.weight_t.transpose(0, 1).contiguous().transpose(0, 1),
        labels=torch.stack([case.labels, case.labels + 1], 1)[:, 0],
        token_weights=torch.stack([case.token_weights, case.token_weights + 1], 1)[:, 0],
    )  # fmt: skip
    assert not any(t.is_contiguous() for t in (strided.x, strided.xt, strided.weight, strided.weight_t, strided.labels))
    truth = run(case.to(torch.float64), "reference")
    for name, value in run(strided, "cpu").items():
        check(value, truth[name], torch.float32)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("nothing", ["labels", "weights", "tokens"])
def test_no_token_has_a_loss(run, nothing):
    case = head_case(0 if nothing == "tokens" else 9, 5, 70, 2, dtype=torch.float32, bias=True)
    if nothing == "labels":
        case = replace(case, labels=torch.full_like(case.labels, -100))
    if nothing == "weights":
        case = replace(case, token_weights=torch.zeros_like(case.token_weights))
    for name, value in run(case, "cpu", fill=1.0).items():
        assert torch.equal(value, torch.full_like(value, 1.0 if name in "wb" else 0.0))


def test_rows_without_a_loss_are_not_read():
    """NaN in a masked token's x and xt reaches nothing."""
    case = head_case(50, 16, 300, 2, dtype=torch.float32)
    dead = (case.labels == -100) | (case.token_weights == 0)
    assert 5 < int(dead.sum()) < 45
    poisoned = replace(case, x=case.x.clone(), xt=case.xt.clone())
    poisoned.x[dead], poisoned.xt[:, dead] = float("nan"), float("nan")
    sound, got = hessian(case, "cpu"), hessian(poisoned, "cpu")
    assert all(torch.equal(sound[name], got[name]) for name in sound)


@pytest.mark.parametrize("softcap", [None, 30.0])
def test_logits_of_ten_thousand(softcap):
    """Integer-valued inputs: z is exact in float32, and only softmax and adjoints are on trial. Rows of the weight
    come in pairs one apart in the last column, where x is 0 or 1: two tokens compete for the largest logit, so second
    derivatives do not vanish. Their h nearly cancel in h W, so the tolerance is ten times the usual one."""
    generator = torch.Generator().manual_seed(1)
    case = head_case(30, 4, 257, 2, dtype=torch.float64, softcap=softcap, masked=0.0)
    x = torch.randint(-50, 51, (30, 4), generator=generator).double()
    x[:, 3] = torch.arange(30) % 2
    weight = torch.randint(-50, 51, (257, 4), generator=generator).double()
    weight[1::2] = weight[:-1:2] - torch.tensor([0.0, 0, 0, 1])
    case = replace(case, x=x, weight=weight).to(torch.float32)
    assert (x @ weight.T).abs().max() > 5e3
    agree(case, hessian, factor=10)
    agree(case, ggn, factor=10)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("shape", [(1, 7, 33), (300, 24, 5000), (700, 3, 2100)])
def test_chunks_and_threads_do_not_matter(run, shape, threads, monkeypatch):
    case = head_case(*shape, 2, dtype=torch.float32, bias=True, masked=0.1)
    agree(case, run)
    for size in (1, 8 * 2**20):
        monkeypatch.setattr(cpu, "LOGIT_BYTES", size)
        agree(case, run)
        results = []
        for count in (1, 2, 3):
            threads(count)
            results.append(run(case, "cpu"))
        for other in results[1:]:
            assert all(torch.equal(results[0][name], other[name]) for name in other)


@pytest.mark.parametrize("run", RUNS)
def test_a_layer_of_biases_alone(run, threads):
    """Without columns the logits are the biases."""
    for count in (1, 2):
        threads(count)
        agree(head_case(9, 0, 300, 2, dtype=torch.float32, bias=True), run)


def test_nan_stays_nan():
    """A NaN in x is not hidden: its token's values and its rows are NaN, other tokens are not."""
    case = head_case(12, 8, 90, 1, dtype=torch.float32, masked=0.0)
    case.x[3, 2] = float("nan")
    got = hessian(case, "cpu")
    assert bool(got["nll"][3].isnan()) and bool(got["hx"][0, 3].isnan().all())
    assert bool(torch.isfinite(got["nll"][4:]).all()) and bool(torch.isfinite(got["hx"][0, :3]).all())


def test_float16_is_the_references():
    case = head_case(9, 8, 30, dtype=torch.float16)
    nll = op.forward(case.x, case.weight, case.labels)
    assert torch.equal(nll, op.forward(case.x, case.weight, case.labels, backend="reference"))
    with pytest.raises(BackendUnavailableError, match="cpu"):
        op.forward(case.x, case.weight, case.labels, backend="cpu")


def test_the_check_fails_on_a_broken_result():
    """A first-order shortcut (Gauss-Newton for the Hessian) and a lost stream are seen by the threshold."""
    case = head_case(30, 16, 200, 2, dtype=torch.float32, softcap=2.0)
    truth, shortcut = hessian(case.to(torch.float64), "reference"), ggn(case, "cpu")
    assert error(shortcut["hx"], truth["hx"]) > 100 * LINEAR[torch.float32]
    got = hessian(case, "cpu")
    got["w"][1] = got["w"][0]
    assert error(got["w"], truth["w"]) > 100 * LINEAR[torch.float32]
