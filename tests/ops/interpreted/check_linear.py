"""Linear layers and linear + cross-entropy in the interpreter (run by tests/ops/test_triton_interpreter.py)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastunlearn.ops import _triton_product
from fastunlearn.ops._triton_product import pair_product
from fastunlearn.ops.linear import reference as plain_linear
from fastunlearn.ops.linear import triton as linear
from fastunlearn.ops.linear_cross_entropy import reference as plain
from fastunlearn.ops.linear_cross_entropy import triton as kernels
from tests.ops.linear_cases import check, head_case
from tests.ops.thresholds import LINEAR

DTYPE = torch.float32
CASES = {
    "one": {"rows": 1, "width": 5, "vocabulary": 7, "masked": 0.0},
    "odd": {"rows": 17, "width": 33, "vocabulary": 63, "streams": 2},
    "bias": {"rows": 9, "width": 16, "vocabulary": 64, "bias": True},
    "capped": {"rows": 9, "width": 17, "vocabulary": 127, "bias": True, "softcap": 1.5, "logit_scale": 0.7,
               "streams": 2},
    "sharp": {"rows": 9, "width": 16, "vocabulary": 40, "spread": 30.0},
}  # fmt: skip
PRODUCTS = {"hessian": ("hessian_product", 4), "ggn": ("ggn_product", 3)}


def head(case):
    return plain.Head(case.weight, case.weight_t, case.bias, case.bias_t, case.softcap, case.logit_scale)


def sums(case, dtype, *streams):
    generator = torch.Generator().manual_seed(7)
    weight = torch.randn(*streams, *case.weight.shape, generator=generator, dtype=torch.float64).to(dtype)
    return weight, None if case.bias is None else torch.ones(*streams, case.weight.shape[0], dtype=dtype)


def compare(got, truth):
    for value, want in zip(got, truth, strict=True):
        check(value, want, DTYPE)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(kernels, "MEMORY_BYTES", 8000)  # several chunks


@pytest.mark.parametrize("which", PRODUCTS)
@pytest.mark.parametrize("name", CASES)
def test_second_order(name, which, small_chunks):
    case = head_case(**CASES[name], dtype=DTYPE)
    wide = case.to(torch.float64)
    out, out_wide = sums(case, DTYPE, case.streams), sums(case, torch.float64, case.streams)
    function = PRODUCTS[which][0]
    need_x = name != "bias"
    got = getattr(kernels, function)(case.x, case.xt, head(case), case.labels, case.token_weights, need_x, *out)
    truth = getattr(plain, function)(wide.x, wide.xt, head(wide), wide.labels, wide.token_weights, need_x, *out_wide)
    compare(got, truth)
    compare(out, out_wide)


@pytest.mark.parametrize("name", CASES)
def test_first_order(name, small_chunks):
    case = head_case(**CASES[name], dtype=DTYPE)
    wide = case.to(torch.float64)
    check(kernels.forward(case.x, head(case), case.labels), plain.forward(wide.x, head(wide), wide.labels), DTYPE)
    compare(
        kernels.dual_forward(case.x, case.xt, head(case), case.labels),
        plain.dual_forward(wide.x, wide.xt, head(wide), wide.labels),
    )
    first, truth = (plain.Head(c.weight, None, c.bias, None, c.softcap, c.logit_scale) for c in (case, wide))
    out, out_wide = sums(case, DTYPE), sums(case, torch.float64)
    compare(
        kernels.backward(case.x, first, case.labels, case.token_weights, True, *out),
        plain.backward(wide.x, truth, wide.labels, wide.token_weights, True, *out_wide),
    )
    compare(out, out_wide)


@pytest.mark.parametrize("missing", [("xt",), ("weight_t",), ("bias_t",), ("xt", "weight_t")])
def test_none_is_zero(missing):
    case = head_case(8, 16, 40, 2, dtype=DTYPE, bias=True)
    for name in missing:
        object.__setattr__(case, name, None)
    wide = case.to(torch.float64)
    out, out_wide = sums(case, DTYPE, 2), sums(case, torch.float64, 2)
    compare(
        kernels.hessian_product(case.x, case.xt, head(case), case.labels, case.token_weights, True, *out),
        plain.hessian_product(wide.x, wide.xt, head(wide), wide.labels, wide.token_weights, True, *out_wide),
    )
    compare(out, out_wide)


@pytest.mark.parametrize("weight", [1 / 32768, 3e4])
@pytest.mark.parametrize("which", [*PRODUCTS, "first"])
def test_weights_beyond_the_range_of_float16(which, weight, small_chunks, monkeypatch):
    """A token's weight is one over the number of tokens: it must not take the adjoints below float16's range."""
    monkeypatch.setattr(kernels, "product", lambda a, b: a.float() @ b.float())  # PyTorch has it on GPUs
    case = head_case(17, 33, 300, 2, dtype=torch.float16, bias=True, softcap=20.0)
    wide = case.to(torch.float64)
    weights = case.token_weights.double() * weight
    weights[case.labels == -100] = 1e9  # of tokens without a loss: they set no scale
    if which == "first":
        function, tangents = "backward", lambda c: (c.x, replace(c, weight_t=None, bias_t=None))
    else:
        function, tangents = PRODUCTS[which][0], lambda c: (c.x, c.xt, c)
    streams = () if which == "first" else (2,)
    out = [torch.zeros(*streams, 300, 33), torch.zeros(*streams, 300)]
    truth_out = [one.double() for one in out]

    def call(module, c, token_weights, sums):
        *leading, layer = tangents(c)
        return getattr(module, function)(*leading, head(layer), c.labels, token_weights, True, *sums)

    got, truth = call(kernels, case, weights.float(), out), call(plain, wide, weights, truth_out)
    for value, want in zip(got, truth, strict=True):  # results are float16: what is below its range is lost there
        close = LINEAR[torch.float16] * want.abs().max() + 2**-25
        assert value.dtype == torch.float16
        assert ((value.double() - want).abs() <= close)[want.abs() < 65000].all()
    for value, want in zip(out, truth_out, strict=True):
        check(value, want, torch.float16)


@pytest.mark.parametrize("streams, tokens", [(1, 128), (8, 256)])
def test_chunks_hold_enough_tokens_for_many_streams(streams, tokens, monkeypatch):
    """A chunk reads and writes weight_out of every stream: with few tokens that would outlast their products."""
    case = head_case(300, 800, 4, streams, dtype=DTYPE, masked=0.0)
    monkeypatch.setattr(kernels, "MEMORY_BYTES", 128 * 4 * 16)  # 128 tokens of one stream, 28 of eight
    monkeypatch.setattr(kernels._Sweep, "_chunk", lambda sweep, rows, *_: rows)
    sweep = kernels._Sweep(case.x, case.xt, head(case), case.labels, case.token_weights)
    rows = list(sweep.chunks(True, True, True))
    assert torch.cat(rows).tolist() == list(range(300)) and rows[0].numel() == tokens


def test_no_token_has_a_loss():
    case = head_case(5, 8, 20, dtype=DTYPE)
    case.labels.fill_(-100)
    out = torch.zeros(1, 20, 8)
    nll, nll_t, gx, hx = kernels.hessian_product(
        case.x, case.xt, head(case), case.labels, case.token_weights, True, out, None
    )
    assert not any(bool(t.any()) for t in (nll, nll_t, gx, hx, out))


@pytest.mark.parametrize("accumulator", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 63, 33, 65), (3, 40, 64, 17)], ids=str)
def test_linear(shape, accumulator):
    k, n, width, height = shape
    generator = torch.Generator().manual_seed(0)

    def draw(*size):
        return torch.randn(size, generator=generator)

    x, xt, w, wt, b, bt, g, h = (
        draw(*s) for s in ((n, width), (k, n, width), (height, width), (k, height, width), (height,), (k, height),
                           (n, height), (k, n, height))
    )  # fmt: skip
    d = torch.Tensor.double
    compare(linear.dual_forward(x, xt, w, wt, b, bt), plain_linear.dual_forward(*map(d, (x, xt, w, wt, b, bt))))
    compare(linear.dual_backward(w, wt, g, h), plain_linear.dual_backward(*map(d, (w, wt, g, h))))
    for one in ((x, xt, g, h), (x, None, None, h), (x, xt, g, None)):
        out = draw(k, height, width).to(accumulator)
        want = plain_linear.weight_product(*(None if t is None else d(t) for t in one), d(out).clone())
        check(linear.weight_product(*one, out), want, DTYPE)
    out = draw(k, height).to(accumulator)
    check(linear.bias_product(h, out.clone()), plain_linear.bias_product(d(h), d(out)), DTYPE)


class _Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.__name__)
        return function(*args, **(kwargs or {}))


def test_second_terms_are_added_where_the_first_stand():
    """As a result of its own PyTorch first copies the first term: a reading and a writing of every layer's tangents."""
    x, w, h = torch.randn(6, 4), torch.randn(5, 4), torch.randn(2, 6, 5)
    xt, wt, kept = torch.randn(2, 6, 4), torch.randn(2, 5, 4), h.clone()
    with _Seen() as seen:
        linear.dual_forward(x, xt, w, wt, None, None)
        linear.dual_backward(w, wt, h[0], h)
    assert "baddbmm_.default" in seen.names and "baddbmm.default" not in seen.names
    assert torch.equal(h, kept)


@pytest.mark.parametrize("add", [False, True])
def test_pair_product_scaled_and_strided(add):
    generator = torch.Generator().manual_seed(0)
    a, b, c, e = (torch.randn(s, generator=generator) for s in ((2, 50, 40), (50, 33), (2, 50, 40), (2, 50, 33)))
    scale = torch.rand(50, generator=generator)
    out = torch.full((2, 33, 40), 2.0).mT
    want = (a * scale[:, None]).double().mT @ b.double() + (c * scale[:, None]).double().mT @ e.double()
    got = pair_product((a.mT, b), (c.mT, e), out, add=add, scale=scale)
    check(got, want + 2.0 if add else want, DTYPE)
    assert got is out


def test_negative_control(monkeypatch):
    """A product that forgets the second pair is found out."""
    run = _triton_product.launch

    def broken(kernel, grid, tiles, arguments, key=(), **how):
        run(kernel, grid, tiles, {**arguments, "PAIR": False}, key)

    monkeypatch.setattr(_triton_product, "launch", broken)
    with pytest.raises(AssertionError):
        test_linear((2, 20, 16, 16), torch.float32)
