"""The attention kernels in the interpreter (run by tests/ops/test_attention_interpreter.py)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st

from fastunlearn.ops.attention import _triton_stored as stored
from fastunlearn.ops.attention import triton as kernels
from fastunlearn.ops.attention._triton_range import LARGEST, growth
from fastunlearn.ops.attention._triton_scores import head_and_block
from tests.ops.attention_cases import check, error, make_case, run_dual, run_single


def mask(*shape, share=0.6, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


@triton.jit
def order(heads, numbers, blocks):
    head, number = head_and_block(blocks)
    tl.store(heads + tl.program_id(0), head)
    tl.store(numbers + tl.program_id(0), number)


@pytest.mark.parametrize("heads, blocks", [(1, 1), (3, 5), (64, 2), (150, 3)])
def test_the_longest_blocks_of_all_heads_begin_first(heads, blocks):
    """Of 64 heads at a time: head after head, a GPU would wait for the last head's longest block."""
    found = torch.zeros(2, heads * blocks, dtype=torch.int32)
    order[(heads * blocks,)](*found, blocks)
    pairs = list(zip(*found.tolist(), strict=True))
    wanted = [(head, number) for band in range(0, heads, 64) for number in range(blocks)
              for head in range(band, min(band + 64, heads))]  # fmt: skip
    assert pairs == wanted


VARIANTS = {
    "plain": {"queries": 33, "keys": 35, "size": 24, "value_size": 16, "count": 2, "transposed": True},
    "causal": {"causal": True, "queries": 47, "keys": 47, "size": 32},
    "causal, more keys": {"causal": True, "queries": 17, "keys": 40, "size": 16},
    "causal, fewer keys": {"causal": True, "queries": 40, "keys": 17, "size": 16},
    "window, shared heads": {"window": 20, "causal": True, "queries": 50, "keys": 50, "size": 16, "heads": 4,
                             "groups": 2},
    "window without causal": {"window": 5, "queries": 40, "keys": 45, "size": 16},
    "softcap": {"softcap": 0.7, "logits": 2.0, "queries": 40, "keys": 40, "size": 16},
    "alibi": {"alibi": torch.tensor([0.5, 0.25]), "causal": True, "queries": 40, "keys": 40, "size": 16},
    "bool mask": {"mask": mask(2, 1, 40, 45), "queries": 40, "keys": 45, "size": 16},
    "float mask": {"mask": torch.randn(2, 40, 45, generator=torch.Generator().manual_seed(2), dtype=torch.float64),
                   "queries": 40, "keys": 45, "size": 16},
    "everything": {"softcap": 2.0, "alibi": torch.tensor([0.5, 0.25]), "causal": True, "window": 30, "groups": 1,
                   "size": 20, "value_size": 36, "count": 2, "queries": 45, "keys": 45,
                   "mask": mask(45, 45, share=0.8)},
}  # fmt: skip


def both(dtype=torch.float32, **settings):
    case = make_case(dtype=dtype, **{"batch": 1, **settings})
    return case, case.wide()


@pytest.fixture(params=["apart", "fused", "stored", "storing"])
def way(request, monkeypatch):
    """Which of the reverse sweep's ways is taken. What stored tiles leave out of their memory is NaN."""
    offered = []
    monkeypatch.setattr(stored, "_room", lambda count, like: like.new_full((count,), torch.nan))

    def fastest(name, ways, key):
        offered.append([one.__name__ for one in ways])
        return next(one for one in ways if one.__name__ == request.param)

    monkeypatch.setattr(kernels, "fastest", fastest)
    yield request.param
    assert offered and all(request.param in names for names in offered)


FEW = ("plain", "causal, fewer keys", "everything")  # for ways whose parts the others have too


@pytest.mark.parametrize(
    "variant, way",
    [(v, way) for v in VARIANTS for way in ("apart", "stored", "fused", "storing")
     if v in FEW or way in ("apart", "stored")],
    indirect=["way"],
)  # fmt: skip
def test_dual_pair(variant, way):
    settings = VARIANTS[variant]
    if settings.get("mask") is not None and settings["mask"].dim() == 4:
        settings = {**settings, "batch": 2}
    case, wide = both(**settings)
    check(run_dual(case, "triton"), run_dual(wide, "reference"))


@pytest.mark.parametrize("way", ["apart"], indirect=True)
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in ("alibi", "softcap", "window without causal")])
def test_as_on_hopper_in_half_precision(variant, way, monkeypatch):
    """Masks in a branch, and scores that wait for their scale; in float32, as the interpreter can."""
    unscaled = kernels._unscaled
    monkeypatch.setattr(kernels, "hopper", lambda: True)
    monkeypatch.setattr(kernels, "_unscaled", lambda dtype, spec: unscaled(torch.bfloat16, spec))
    test_dual_pair(variant, way)


def test_when_scores_wait_for_their_scale():
    """Where nothing is added to them, in half precision."""
    shape = {"queries": 5, "keys": 5, "size": 16}
    seen = torch.ones(5, 5, dtype=torch.bool)
    waits = {"plain": {}, "causal": {"causal": True, "window": 2}, "mask": {"mask": seen}}
    for name, spec in waits.items():
        assert kernels._unscaled(torch.float16, make_case(**shape, **spec).spec), name
        assert not kernels._unscaled(torch.float32, make_case(**shape, **spec).spec), name
    for spec in ({"softcap": 1.0}, {"alibi": torch.ones(2)}, {"mask": torch.zeros(5, 5, dtype=torch.float64)}):
        assert not kernels._unscaled(torch.bfloat16, make_case(**shape, **spec).spec), spec
    assert not kernels._unscaled(torch.bfloat16, replace(make_case(**shape).spec, scale=-0.1))


@pytest.mark.parametrize(
    "way, room, batch, count",
    [("stored", 1, 1, 2), ("stored", 140_000, 1, 1), ("stored", 300_000, 2, 1), ("storing", 1, 1, 1)],
    indirect=["way"],
)
def test_stored_in_parts(room, batch, count, way, monkeypatch):
    """Some queries of one group's heads at a time; all of one group's; all of one batch's."""
    monkeypatch.setattr(stored, "STORED_BYTES", room)
    case, wide = both(batch=batch, heads=4, groups=2, queries=40, keys=40, size=16, count=count, causal=True, window=25)
    check(run_dual(case, "triton"), run_dual(wide, "reference"))
    check(run_single(case, "triton"), run_single(wide, "reference"))


@pytest.mark.parametrize("way", ["stored"], indirect=True)
def test_stored_in_parts_without_order(way, monkeypatch):
    monkeypatch.setattr(stored, "STORED_BYTES", 1)
    case, wide = both(queries=40, keys=50, size=16)
    check(run_dual(case, "triton"), run_dual(wide, "reference"))


@settings(max_examples=200, deadline=None)
@given(
    batches=st.integers(1, 5), groups=st.integers(1, 5), grains=st.integers(1, 9), row_bytes=st.integers(1, 3000),
    room=st.integers(1, 200_000),
)  # fmt: skip
def test_parts_hold_everything_once(batches, groups, grains, row_bytes, room):
    rows, grain = 32 * grains, 32
    found = list(stored.parts(batches, groups, rows, row_bytes, grain, room))
    pairs = [
        (b, g) for one in found for b in range(one.batches.start, one.batches.stop)
        for g in range(one.groups.start, one.groups.stop)
    ]  # fmt: skip
    assert sorted(pairs) == [(b, g) for b in range(batches) for g in range(groups)]
    sizes = [(p.batches.stop - p.batches.start) * (p.groups.stop - p.groups.start) * p.rows * row_bytes for p in found]
    assert max(sizes) == sizes[0], "memory is taken for the first"
    assert all(p.rows % grain == 0 and p.rows <= rows for p in found)
    assert sizes[0] <= room or (len(pairs) == len(found) and found[0].rows == grain)
    assert all(p.batches.stop - p.batches.start == 1 or p.groups == slice(0, groups) for p in found)


def test_one_token():
    """One key has probability 1: scores get no adjoint, and the rest is v and its tangent."""
    case, wide = both(queries=1, keys=1, size=16)
    got, truth = run_dual(case, "triton"), run_dual(wide, "reference")
    check({name: got[name] for name in ("o", "ot", "lse", "mean_t", "gv", "hv")}, truth)
    assert all(float(got[name].abs().max()) < 1e-5 for name in ("gq", "gk", "hq", "hk"))


@pytest.mark.parametrize("variant", ["plain", "window, shared heads", "everything"])
def test_one_stream(variant, way):
    case, wide = both(**VARIANTS[variant])
    check(run_single(case, "triton"), run_single(wide, "reference"))


MISSING = (("qt",), ("kt",), ("vt",), ("qt", "kt"), ("kt", "vt"), ("h",), ("qt", "kt", "h"))


@pytest.mark.parametrize(
    "missing, way",
    [*((missing, "apart") for missing in MISSING), *((missing, "stored") for missing in MISSING[-3:])],
    indirect=["way"],
)  # fmt: skip
def test_none_is_zero(missing, way):
    case, wide = both(queries=20, keys=20, size=16, causal=True, count=2)
    for name in missing:
        setattr(case, name, None)
        setattr(wide, name, None)
    check(run_dual(case, "triton"), run_dual(wide, "reference"))


@pytest.mark.parametrize("way", ["apart", "stored"], indirect=True)
@pytest.mark.parametrize("row", [0, 33])
def test_fully_masked_rows(row, way):
    seen = torch.ones(40, 40, dtype=torch.bool)
    seen[row] = False
    case, wide = both(queries=40, keys=40, size=16, mask=seen)
    got = run_dual(case, "triton")
    assert all(bool((got[name][..., row, :] == 0).all()) for name in ("o", "ot", "gq", "hq"))
    check(got, run_dual(wide, "reference"))


@pytest.mark.parametrize("queries, keys", [(0, 5), (5, 0)])
def test_empty(queries, keys):
    case, wide = both(queries=queries, keys=keys, size=16)
    got, truth = run_dual(case, "triton"), run_dual(wide, "reference")
    for name, value in got.items():
        assert value.shape == truth[name].shape and error(value, truth[name]) == 0, name


def test_a_common_part_of_the_keys_costs_no_digits():
    """It moves st by the same number for all keys, which must not show in ot."""
    case, _ = both(queries=40, keys=40, size=16)
    case.k, case.q, case.kt = case.k + 30 * torch.ones(16), case.q * 0.1, torch.zeros_like(case.kt)
    check({"ot": run_dual(case, "triton")["ot"]}, run_dual(case.wide(), "reference"))


def test_last_stride_not_one():
    case, wide = both(queries=20, keys=20, size=16, causal=True)
    case.k = case.k.transpose(-1, -2).contiguous().transpose(-1, -2)
    case.qt = case.qt.transpose(-1, -2).contiguous().transpose(-1, -2)
    check(run_dual(case, "triton"), run_dual(wide, "reference"))


def test_sums_by_atomics_are_not_offered_where_runs_must_be_alike(monkeypatch):
    offered = []

    def fastest(name, ways, key):
        offered.append({one.__name__ for one in ways})
        return ways[0]

    monkeypatch.setattr(kernels, "fastest", fastest)
    case, _ = both(queries=20, keys=20, size=16)
    run_dual(case, "triton")
    torch.use_deterministic_algorithms(True)
    try:
        run_dual(case, "triton")
    finally:
        torch.use_deterministic_algorithms(False)
    assert offered == [{"apart", "fused", "stored", "storing"}, {"apart", "stored", "storing"}]


@pytest.mark.parametrize("way", ["apart", "stored", "storing"], indirect=True)
def test_same_bits_twice(way):
    case, _ = both(queries=40, keys=40, size=16, causal=True, count=2)
    first, second = run_dual(case, "triton"), run_dual(case, "triton")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_negative_control(monkeypatch):
    """A kernel that has another soft-cap is found out."""
    case, wide = both(queries=20, keys=20, size=16, softcap=0.7, logits=2.0)
    run = kernels.launch

    def broken(kernel, grid, tiles, arguments, key=(), **how):
        run(kernel, grid, tiles, {**arguments, "softcap": 0.71}, key, **how)

    monkeypatch.setattr(kernels, "launch", broken)
    with pytest.raises(AssertionError):
        check(run_dual(case, "triton"), run_dual(wide, "reference"))


def test_masked_by_the_least_number():
    """A row whose keys all carry the least float32 attends to all alike, as softmax does."""
    added = torch.zeros(20, 20, dtype=torch.float64)
    added[7] = torch.finfo(torch.float32).min
    case, wide = both(queries=20, keys=20, size=16, mask=added)
    got, truth = run_dual(case, "triton"), run_dual(wide, "reference")
    names = [name for name in got if name not in ("lse", "mean_t")]
    check({name: got[name] for name in names}, truth)


@pytest.mark.parametrize("way", ["apart", "stored"], indirect=True)
@pytest.mark.parametrize("window", [2**31 - 1, 2**63 - 1])
def test_a_window_longer_than_anything_hides_nothing(window, way):
    case, wide = both(queries=40, keys=40, size=16, causal=True, window=window)
    wide.spec = replace(wide.spec, window=None)
    check(run_dual(case, "triton"), run_dual(wide, "reference"))


@pytest.mark.parametrize("way", ["apart", "stored"], indirect=True)
def test_nan_reaches_all_that_it_is_part_of(way):
    """As in the reference: a row with a NaN is not one without keys."""
    case, wide = both(queries=40, keys=40, size=16, causal=True)
    for one in (case, wide):
        one.k[..., 20, 3] = torch.nan
    got, truth = run_dual(case, "triton"), run_dual(wide, "reference")
    for name in got:
        assert torch.equal(got[name].isnan(), truth[name].isnan()), name
        assert got[name].isnan().any(), name


@pytest.mark.parametrize("size, way", [(1e-5, "apart"), (1e-5, "stored"), (1e3, "storing")], indirect=["way"])
def test_adjoints_of_any_size_in_float16(size, way):
    """As near to the truth as the reference, which keeps float32 between its products, to twice its error."""
    case, _ = both(queries=70, keys=96, size=16)
    case.g, case.h = size * case.g, size * case.h
    case = case.map(lambda t: t.half())
    wide, plain = run_dual(case.wide(), "reference"), run_dual(case, "reference")
    for name, got in run_dual(case, "triton").items():
        allowed = 2 * error(plain[name], wide[name]) + 1e-3
        assert error(got, wide[name]) <= allowed, f"{name}: {error(got, wide[name]):.1e} > {allowed:.1e}"


def test_growth():
    half = torch.tensor([3e-5, -1e-5], dtype=torch.float16)
    assert growth(half.float(), None) is None and growth(half.bfloat16()) is None and growth(half[:0]) is None
    for largest in (6e-8, 1e-5, 0.3, 1.0, 65504.0):
        grown = growth(half * 0, torch.tensor([largest], dtype=torch.float16))
        assert float(torch.log2(grown)) % 1 == 0 and float(grown) * largest <= LARGEST
        assert float(grown) * largest > LARGEST / 2 or float(grown) == 2**15
    for odd in (0.0, float("inf"), float("nan")):
        assert float(growth(torch.tensor([odd, 1e-5 if odd else 0.0], dtype=torch.float16))) == 1.0


def test_little_memory_is_enough(monkeypatch):
    """Where the room for the tiles cannot be had, a smaller one is taken; where there is none at all, it says so."""
    asked, most = [], [30_000]

    def room(count, like):
        asked.append(count)
        if count * like.element_size() > most[0]:
            raise torch.OutOfMemoryError("no memory")
        return like.new_empty(count)

    monkeypatch.setattr(stored, "_room", room)
    monkeypatch.setattr(kernels, "fastest", lambda name, ways, key: next(w for w in ways if w.__name__ == "stored"))
    case, wide = both(queries=70, keys=70, size=16, heads=4, groups=4)
    check(run_dual(case, "triton"), run_dual(wide, "reference"))
    assert max(asked) > 30_000 / 4
    most[0] = 10
    with pytest.raises(torch.OutOfMemoryError):
        run_dual(case, "triton")
