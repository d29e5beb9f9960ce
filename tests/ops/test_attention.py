"""The C++ attention kernels against the float64 reference: shapes, strides, masks, instruction sets, threads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastunlearn.ops._dispatch import why_not_live
from fastunlearn.ops.attention import cpu
from tests.ops.attention_cases import check, check_case, error, make_case, run_dual, run_single

CPU_REASON = why_not_live("cpu")
pytestmark = pytest.mark.skipif(bool(CPU_REASON), reason=f"cpu backend: {CPU_REASON}")
FLOATS = [torch.float32, torch.float64]


@pytest.fixture(autouse=True)
def _poisoned_outputs(monkeypatch):
    """Kernels write into memory full of NaN: what they leave out, or read before writing, shows."""
    fresh = cpu._Call.out
    monkeypatch.setattr(cpu._Call, "out", lambda call, *shape: fresh(call, *shape).fill_(torch.nan))


def live_isas() -> list[str]:
    if CPU_REASON:
        return []
    from fastunlearn import _cpu

    return _cpu.live_isas()


SHAPES = [  # batch, heads, groups, queries, keys, size, value size, K
    (1, 1, 1, 1, 1, 1, 1, 1),
    (2, 2, 1, 17, 17, 16, 16, 1),
    (1, 4, 2, 63, 130, 17, 80, 3),
    (1, 2, 2, 130, 63, 64, 64, 1),
    (1, 3, 1, 127, 127, 96, 33, 2),
    (1, 1, 1, 97, 193, 130, 256, 1),
    (1, 1, 1, 2, 400, 256, 16, 1),
]
RULES = {
    "plain": {},
    "causal": {"causal": True},
    "causal window": {"causal": True, "window": 50},
    "window": {"window": 100},
    "narrow window": {"causal": True, "window": 1},
    "softcap": {"softcap": 3.0, "logits": 4.0},
    "softcap and all": {"softcap": 20.0, "logits": 10.0, "causal": True, "window": 100},
}


def named(shape: tuple, **more) -> dict:
    names = ("batch", "heads", "groups", "queries", "keys", "size", "value_size", "count")
    return dict(zip(names, shape, strict=True)) | more


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_and_rules(shape, rule, dtype):
    check_case(make_case(**named(shape, dtype=dtype, **RULES[rule])))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_alibi(dtype):
    slopes = torch.tensor([0.25, 0.0, 0.0625, 0.5])
    check_case(make_case(1, 4, 2, 130, 130, 17, alibi=slopes, causal=True, dtype=dtype))
    check_case(make_case(1, 4, 4, 97, 200, 17, alibi=slopes.double(), softcap=2.0, dtype=dtype))


def masks() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    random = torch.rand(2, 1, 130, 200, generator=generator) > 0.5
    random[:, :, 3:110] &= False  # fully masked rows, and whole tiles of them
    blocks = torch.ones(130, 200, dtype=torch.bool)
    blocks[:96, 96:192] = False
    added = torch.randn(1, 4, 130, 200, generator=generator)
    return {
        "bool": random,
        "padding": torch.arange(200) < torch.tensor([[150], [7]])[:, :, None, None],
        "tiles": blocks,
        "nothing": torch.zeros(1, 1, dtype=torch.bool),
        "everything": torch.ones(130, 1, dtype=torch.bool),
        "added": added,
        "added, -inf": added.masked_fill(~blocks, -torch.inf).masked_fill(torch.arange(130)[:, None] == 5, -torch.inf),
        "least number": torch.zeros(130, 200).masked_fill(~random, torch.finfo(torch.float32).min),
        "transposed": torch.randn(200, 130, generator=generator).T,
        "per query": torch.randn(2, 4, 130, 1, generator=generator),
    }


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", list(masks()))
def test_masks(name, causal, dtype):
    mask = masks()[name]
    case = make_case(2, 4, 2, 130, 200, 16, causal=causal, dtype=dtype, mask=mask)
    check_case(case)
    if name == "nothing":
        results = run_dual(case, "cpu")
        assert bool((results.pop("lse") == -torch.inf).all())
        assert all(bool((x == 0).all()) for x in results.values())


def test_mask_in_bfloat16():
    mask = torch.randn(130, 200).bfloat16()
    case = make_case(1, 2, 2, 130, 200, 16, dtype=torch.bfloat16, mask=mask)
    wide = case.map(lambda x: x.float())
    check(run_single(case, "cpu"), run_single(wide.wide(), "reference"), 2e-2)


@pytest.mark.parametrize("isa", live_isas())
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_instruction_set(isa, dtype, monkeypatch):
    monkeypatch.setenv("FASTUNLEARN_CPU_ISA", isa)
    slopes = torch.tensor([0.5, 0.125])
    for shape in SHAPES:
        check_case(make_case(**named(shape, dtype=dtype)))
    check_case(make_case(2, 2, 1, 127, 130, 33, 65, 3, dtype=dtype, softcap=2.0, alibi=slopes, causal=True, window=99))


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("rule", ["plain", "causal", "causal window"])
def test_threads_do_not_change_a_bit(threads, groups, rule):
    case = make_case(1, 4, groups, 300, 420, 24, dtype=torch.float32, count=2, **RULES[rule])
    results = []
    for count in (1, 2, 3, 7):
        threads(count)
        results.append(run_dual(case, "cpu") | {f"single {k}": v for k, v in run_single(case, "cpu").items()})
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in other)


@pytest.mark.parametrize("dtype", [*FLOATS, torch.bfloat16], ids=str)
def test_strides(dtype):
    """Layouts that models hand over give the same bits as contiguous ones."""
    case = make_case(2, 4, 2, 50, 70, 24, 40, 2, dtype=dtype, transposed=True, causal=True)
    assert not case.q.is_contiguous() and case.q.stride(-1) == 1
    expected = run_dual(case.map(lambda x: x.contiguous()), "cpu")
    layouts = [
        case,
        case.map(lambda x: torch.cat([x, torch.full_like(x, torch.nan)], -1)[..., : x.shape[-1]]),  # fused projections
        case.map(lambda x: x.mT.contiguous().mT),  # last axis not contiguous: copied
        case.map(lambda x: torch.stack([x, x], -3)[..., 1, :, :]),
    ]
    for layout in layouts:
        got = run_dual(layout, "cpu")
        assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_expanded_inputs():
    """Strides of 0: one key for all positions, one g for all queries."""
    case = make_case(1, 2, 2, 20, 30, 16)
    case.k, case.g = case.k[:, :, :1].expand_as(case.k), case.g[:, :, :1].expand_as(case.g)
    check_case(case)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype):
    """Near to float64 as the plain path in the same dtype is; g . o takes up the rounding of o, hence the factor."""
    case = make_case(1, 4, 2, 130, 130, 40, count=2, dtype=dtype, causal=True)
    truth = run_dual(case.wide(), "reference")
    got, plain = run_dual(case, "cpu"), run_dual(case, "reference")
    for name, value in got.items():
        assert value.dtype == plain[name].dtype
        assert error(value, truth[name]) <= 2.5 * error(plain[name], truth[name]) + 1e-5, name


@pytest.mark.parametrize("missing", [("qt",), ("kt",), ("vt",), ("qt", "kt"), ("kt", "vt"), ("h",), ("qt", "kt", "h")])
def test_none_is_zero(missing):
    case = make_case(1, 2, 1, 130, 100, 24, count=2, dtype=torch.float32, softcap=5.0)
    for name in missing:
        setattr(case, name, None)
    wide = case.wide()
    check(run_dual(case, "cpu"), run_dual(wide, "reference"))


@pytest.mark.parametrize("shape", [(0, 2, 1, 3, 4), (2, 0, 1, 3, 4), (1, 2, 1, 0, 4), (1, 2, 1, 3, 0)], ids=str)
def test_empty(shape):
    case = make_case(*shape, size=16, dtype=torch.float32)
    got, truth = run_dual(case, "cpu"), run_dual(case.wide(), "reference")
    assert all(torch.equal(got[name].double(), truth[name]) for name in truth)


def test_nan_is_not_hidden():
    case = make_case(1, 1, 1, 100, 100, 16, causal=True, dtype=torch.float32)
    case.k[0, 0, 50, 3] = torch.nan
    o = run_single(case, "cpu")["o"]
    assert bool(torch.isfinite(o[..., :50, :]).all()) and bool(torch.isnan(o[..., 50:, :]).all())


LENGTHS = st.sampled_from([1, 2, 17, 63, 96, 97, 127, 130, 193])


@settings(max_examples=60, deadline=None)
@example(1, 2, 1, 26, 1, (3, 1), False, None, None, False, "none", torch.float32, False, 1)  # little is left of dk
@given(
    queries=LENGTHS, keys=LENGTHS, size=st.integers(1, 40), value_size=st.integers(1, 40),
    count=st.sampled_from([1, 3]), heads=st.sampled_from([(1, 1), (2, 2), (4, 2), (3, 1)]), causal=st.booleans(),
    window=st.none() | st.integers(1, 200), softcap=st.none() | st.floats(0.5, 50), alibi=st.booleans(),
    mask=st.sampled_from(["none", "bool", "float"]), dtype=st.sampled_from(FLOATS), transposed=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_anything(queries, keys, size, value_size, count, heads, causal, window, softcap, alibi, mask, dtype,
                  transposed, seed):  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    made = {
        "bool": torch.rand(queries, keys, generator=generator) > 0.4,
        "float": torch.randn(queries, keys, generator=generator),
    }
    slopes = torch.rand(heads[0], generator=generator) if alibi else None
    check_case(make_case(
        1, *heads, queries, keys, size, value_size, count, dtype=dtype, seed=seed, transposed=transposed, causal=causal,
        window=window, softcap=softcap, alibi=slopes, mask=made.get(mask),
    ))  # fmt: skip
