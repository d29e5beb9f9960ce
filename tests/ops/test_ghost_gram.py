"""ghost_gram and its fellows against whole per-sample gradients in float64, on every backend that is live."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops._dispatch import why_not_live
from fastunlearn.ops.ghost_gram import cpu, formed, formed_gram, ghost_gram, gram
from fastunlearn.ops.ghost_gram._arguments import check_pair
from tests.ops.gram_cases import Tokens, check, dense_gram, error, make_tokens
from tests.ops.thresholds import GRAM

CPU_REASON = why_not_live("cpu")
needs_cpu = pytest.mark.skipif(bool(CPU_REASON), reason=f"cpu backend: {CPU_REASON}")
BACKENDS = ["reference", pytest.param("cpu", marks=needs_cpu)]
FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# Lengths of samples, d_in, d_out: single tokens, empty samples, samples cut by block borders (96, 192), odd widths.
SHAPES = [
    ([1], 1, 1),
    ([1] * 63, 63, 7),
    ([3, 0, 127, 1, 0], 7, 300),
    ([95, 2, 1, 190, 5, 400], 65, 33),
    ([0, 0, 700], 257, 64),
    ([1] * 130 + [97, 96, 0, 193], 31, 127),
]


def live_isas() -> list[str]:
    if CPU_REASON:
        return []
    from fastunlearn import _cpu

    return _cpu.live_isas()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{len(s[0])}x{s[1]}x{s[2]}")
@pytest.mark.parametrize("bias", [False, True])
def test_symmetric(backend, dtype, shape, bias):
    tokens = make_tokens(*shape, dtype)
    got = ghost_gram(*tokens, bias=bias, backend=backend)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    check(got, dense_gram(tokens, bias=bias))
    assert torch.equal(got, got.T) or backend == "reference"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_two_sets(backend, dtype, bias):
    first = make_tokens([63, 1, 0, 127, 210], 33, 65, dtype, seed=1)
    second = make_tokens([5, 400, 0, 1, 1, 30, 9], 33, 65, dtype, seed=2)
    check(ghost_gram(*first, *second, bias=bias, backend=backend), dense_gram(first, second, bias))
    check(ghost_gram(*second, *first, bias=bias, backend=backend), dense_gram(second, first, bias))


@pytest.mark.parametrize("isa", live_isas())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_every_instruction_set(isa, dtype):
    for number, shape in enumerate(SHAPES):
        tokens = make_tokens(*shape, dtype, seed=number)
        first, _ = check_pair(*tokens, None, None, None)
        out = torch.full((first.samples, first.samples), float("nan"), dtype=GRAM_OF[dtype])
        check(cpu.ghost_gram(first, None, True, out, isa=isa), dense_gram(tokens, bias=True))


GRAM_OF = {dtype: torch.float64 if dtype == torch.float64 else torch.float32 for dtype in FLOATS}


@needs_cpu
@pytest.mark.parametrize("two_sets", [False, True])
def test_threads_do_not_change_a_bit(threads, two_sets):
    first = make_tokens([7, 300, 1, 50, 0, 260], 70, 50, torch.float32)
    second = tuple(make_tokens([100, 333], 70, 50, torch.float32, seed=3)) if two_sets else ()
    results = []
    for count in (1, 2, 3, 5):
        threads(count)
        results.append(ghost_gram(*first, *second, backend="cpu"))
    assert all(torch.equal(results[0], other) for other in results[1:])


@needs_cpu
def test_several_stripes_of_columns():
    """A width at which the packed second side does not fit one stripe: the sums go on across stripes."""
    tokens = make_tokens([150, 1, 400, 30], 20000, 30000, torch.float32)
    truth = ghost_gram(*tokens.wide(), backend="reference")
    assert error(ghost_gram(*tokens, backend="cpu"), truth) <= GRAM[torch.float32]


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_inputs_and_poisoned_out(backend):
    tokens = make_tokens([5, 1, 120], 40, 90, torch.float32)
    truth = dense_gram(tokens)
    wide_x, tall_g = torch.randn(126, 100), torch.randn(90, 126)
    wide_x[:, 30:70], tall_g[:] = tokens.x, tokens.g.T
    x, g = wide_x[:, 30:70], tall_g.T
    assert not x.is_contiguous() and not g.is_contiguous()
    for out in (torch.full((3, 3), float("nan")), torch.full((3, 6), float("nan"))[:, ::2]):
        got = ghost_gram(x, g, tokens.offsets, out=out, backend=backend)
        assert got.data_ptr() == out.data_ptr()
        check(out, truth)
    repeated = tokens.x[:1].expand(126, 40)
    truth = dense_gram(Tokens(repeated, tokens.g, tokens.offsets))
    check(ghost_gram(repeated, g, tokens.offsets, backend=backend), truth)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_tokens_and_no_samples(backend):
    empty = make_tokens([0, 0], 4, 3, torch.float32)
    some = make_tokens([2, 3], 4, 3, torch.float32)
    assert torch.equal(ghost_gram(*empty, backend=backend), torch.zeros(2, 2))
    assert torch.equal(ghost_gram(*some, *empty, backend=backend), torch.zeros(2, 2))
    assert torch.equal(ghost_gram(*empty, *some, backend=backend), torch.zeros(2, 2))
    none = make_tokens([], 4, 3, torch.float32)
    assert ghost_gram(*none, backend=backend).shape == (0, 0)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 130), min_size=1, max_size=6),
    others=st.none() | st.lists(st.integers(0, 130), min_size=1, max_size=6),
    d_in=st.integers(1, 40),
    d_out=st.integers(1, 40),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_all_ways_agree(lengths, others, d_in, d_out, bias, seed):
    first = make_tokens(lengths, d_in, d_out, seed=seed)
    second = make_tokens(others, d_in, d_out, seed=seed + 1) if others else None
    both = (*first, *second) if second else tuple(first)
    truth = dense_gram(first, second, bias)
    sizes = [None if side is None else Tokens(side.x.abs(), side.g.abs(), side.offsets) for side in (first, second)]
    for way in (ghost_gram, formed_gram, gram):
        check(way(*both, bias=bias), truth, dense_gram(*sizes, bias))


@pytest.mark.parametrize("memory", [8 * 6, 8 * 6 * 5, 8 * 6 * 13 * 4, 2**20])
def test_formed_in_any_memory(memory):
    first, second = make_tokens([3, 0, 20, 1], 13, 9), make_tokens([6, 2], 13, 9, seed=1)
    check(formed_gram(*first, bias=True, memory_bytes=memory), dense_gram(first, bias=True))
    check(formed_gram(*first, *second, memory_bytes=memory), dense_gram(first, second))


def test_formed_with_panels_and_equal_lengths():
    tokens = make_tokens([2] * 600, 5, 4)
    check(formed_gram(*tokens, memory_bytes=600 * 8 * 7), dense_gram(tokens))


def test_too_little_memory_says_how_much():
    tokens = make_tokens([3, 4], 5, 6)
    with pytest.raises(InvalidInputError, match="at least 16"):
        formed_gram(*tokens, memory_bytes=15)


def test_route():
    short, long = make_tokens([1] * 50, 64, 64), make_tokens([300, 300], 8, 8)
    from fastunlearn.ops.ghost_gram.cost import choose_route

    assert choose_route(50, 50, 50, 50, 64, 64, True, "cpu") == "ghost"
    assert choose_route(600, 600, 2, 2, 8, 8, True, "cpu") == "formed"
    for tokens in (short, long):
        for route in ("auto", "ghost", "formed"):
            check(gram(*tokens, route=route), dense_gram(tokens))
    with pytest.raises(InvalidInputError, match="auto, ghost, formed"):
        gram(*short, route="quick")


class _Largest(TorchDispatchMode):
    """Numbers of the largest tensor that is made, views aside."""

    def __init__(self, *known: torch.Tensor):
        super().__init__()
        self.known, self.numbers = [t.untyped_storage().data_ptr() for t in known], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.untyped_storage().data_ptr() not in self.known:
            self.numbers = max(self.numbers, found.numel())
        return found


@pytest.mark.parametrize("rows", [1, 4, 11])
def test_mirroring_makes_nothing_as_large_as_its_result(rows, monkeypatch):
    """What GPUs add up in float64 is as large as the whole Gram: two halves and their sum were three times that."""
    monkeypatch.setattr(formed, "PANEL", 4)
    source = torch.randn(rows, rows, dtype=torch.float64)
    out = torch.full((rows, 2 * rows), float("nan"))[:, ::2]
    with _Largest(source, out) as largest:
        assert formed.mirror_upper(out, source) is out
    assert largest.numbers <= 16
    assert torch.equal(out, (source.triu() + source.triu(1).T).float())
    assert torch.equal(formed.mirror_upper(source.clone()).float(), out)


# --- the checks can fail -----------------------------------------------------------------------------------

def _broken_no_bias(tokens: Tokens) -> torch.Tensor:
    return ghost_gram(*tokens)


def _broken_lost_token(tokens: Tokens) -> torch.Tensor:
    x = tokens.x.clone()
    x[100] = 0
    return ghost_gram(x, tokens.g, tokens.offsets, bias=True)


def _broken_border(tokens: Tokens) -> torch.Tensor:
    offsets = tokens.offsets.clone()
    offsets[2] += 1
    return ghost_gram(tokens.x, tokens.g, offsets, bias=True)


def _broken_half_precision(tokens: Tokens) -> torch.Tensor:
    return ghost_gram(tokens.x.half(), tokens.g.half(), tokens.offsets, bias=True)


def _broken_unwritten(tokens: Tokens) -> torch.Tensor:
    out = ghost_gram(*tokens, bias=True)
    out[1, 2] = float("nan")
    return out


@pytest.mark.parametrize(
    "broken", [_broken_no_bias, _broken_lost_token, _broken_border, _broken_half_precision, _broken_unwritten]
)
def test_negative_control(broken):
    """Kernels with one fault each are caught by the same check at the same threshold."""
    tokens = make_tokens([90, 60, 3, 140], 64, 64, torch.float32)
    truth = dense_gram(tokens, bias=True)
    check(ghost_gram(*tokens, bias=True), truth)
    with pytest.raises(AssertionError):
        check(broken(tokens), truth)
