"""Norms, activations and rotary embedding in the interpreter (run by tests/ops/test_triton_interpreter.py)."""

from __future__ import annotations

import itertools

import pytest
import torch

from fastunlearn.ops.activation import reference as plain_activation
from fastunlearn.ops.activation import triton as activation
from fastunlearn.ops.gated_mlp import reference as plain_gated
from fastunlearn.ops.gated_mlp import triton as gated
from fastunlearn.ops.norm import reference as plain_norm
from fastunlearn.ops.norm import triton as norm
from fastunlearn.ops.rope import reference as plain_rope
from fastunlearn.ops.rope import triton as rope
from tests.ops.dual_cases import check, draw, wide

LIMIT = 2e-5
DTYPE = torch.float32
OPTIONAL = list(itertools.product([True, False], repeat=4))


def compare(got, truth, names):
    for value, want, name in zip(got, truth, names, strict=True):
        assert (value is None) == (want is None), name
        check(value, want, LIMIT, name, floor=1e-3)


def widened(values):
    return [wide(value) if isinstance(value, torch.Tensor) else value for value in values]


def norm_inputs(k, n, d, seed=0, spread=0):
    shapes = [(n, d), (k, n, d), (d,), (k, d), (d,), (k, d), (n, d), (k, n, d)]
    drawn = [draw((*shape[:-1], shape[-1] + spread), DTYPE, seed + i) for i, shape in enumerate(shapes)]
    return [value[..., : shape[-1]] for value, shape in zip(drawn, shapes, strict=True)]


def check_norm(x, xt, weight, weight_t, bias, bias_t, g, h, offset, center):
    forward = (x, xt, weight, weight_t, bias, bias_t, 1e-5, offset, center)
    compare(norm.dual_forward(*forward), plain_norm.dual_forward(*widened(forward)), ("y", "yt"))
    back = (x, xt, weight, weight_t, g, h, 1e-5, offset, center)
    names = ("gx", "hx", "weight_h", "bias_h")
    compare(norm.dual_backward(*back), plain_norm.dual_backward(*widened(back)), names)


@pytest.mark.parametrize("center", [False, True], ids=["rms", "layer"])
@pytest.mark.parametrize("shape", [(1, 1, 5), (2, 37, 127), (3, 19, 64)], ids=str)
def test_norm(shape, center):
    check_norm(*norm_inputs(*shape, spread=3 if shape[0] == 3 else 0), 1.0 if center else 0.0, center)


@pytest.mark.parametrize("center", [False, True], ids=["rms", "layer"])
@pytest.mark.parametrize("kept", OPTIONAL)
def test_norm_with_missing_arguments(kept, center):
    x, xt, weight, weight_t, bias, bias_t, g, h = norm_inputs(2, 3, 33)
    xt, weight_t, g, h = (v if keep else None for v, keep in zip((xt, weight_t, g, h), kept, strict=True))
    check_norm(x, xt, weight, weight_t, bias, bias_t if weight_t is not None else None, g, h, 0.0, center)
    if weight_t is None:
        check_norm(x, xt, None, None, None, None, g, h, 1.0, center)


def test_norm_without_its_sums():
    x, xt, weight, weight_t, _, _, g, h = norm_inputs(2, 5, 33)
    assert norm.dual_backward(x, xt, weight, weight_t, g, h, 1e-5, 0.0, False, False, False)[2:] == (None, None)


def gated_inputs(k, shape, seed=0):
    shapes = [shape, shape, (k, *shape), (k, *shape), shape, (k, *shape)]
    return [draw(s, DTYPE, seed + i, 2.0) for i, s in enumerate(shapes)]


def check_gated(kind, gate, up, gate_t, up_t, g, h):
    forward = (gate, up, gate_t, up_t, kind)
    compare(gated.dual_forward(*forward), plain_gated.dual_forward(*widened(forward)), ("y", "yt"))
    back = (gate, up, gate_t, up_t, g, h, kind)
    names = ("g_gate", "g_up", "h_gate", "h_up")
    compare(gated.dual_backward(*back), plain_gated.dual_backward(*widened(back)), names)


@pytest.mark.parametrize("kind", plain_activation.KINDS)
def test_activations(kind):
    gate, up, gate_t, up_t, g, h = gated_inputs(2, (3, 63))
    gate[0, :4] = torch.tensor([0.0, 60.0, -60.0, 1e-3])
    check_gated(kind, gate, up, gate_t, up_t, g, h)
    forward, back = (gate, gate_t, kind), (gate, gate_t, g, h, kind)
    compare(activation.dual_forward(*forward), plain_activation.dual_forward(*widened(forward)), ("y", "yt"))
    compare(activation.dual_backward(*back), plain_activation.dual_backward(*widened(back)), ("gx", "hx"))


@pytest.mark.parametrize("kind", plain_activation.KINDS)
def test_what_is_no_number_stays_none(kind):
    """As in the reference, where it is used at all; and in the rows of a norm and pairs of a rotation."""
    x, ones = torch.tensor([float("nan"), 1.0, float("nan")]), torch.ones(1, 3)
    results = []
    for module in (activation, plain_activation):
        y, yt = module.dual_forward(x, ones, kind)
        results.append([y, yt, *module.dual_backward(x, ones, ones[0], ones, kind)])
    for got, want in zip(*results, strict=True):
        assert torch.equal(got.isnan(), want.isnan())


def test_norms_and_rotations_keep_what_is_no_number():
    x = draw((3, 8), DTYPE, 1)
    x[1, 2] = float("nan")
    for center in (False, True):
        args = (x, x[None], None, None, None, None, 1e-5, 0.0, center)
        back = (x, x[None], None, None, torch.ones(3, 8), torch.ones(1, 3, 8), 1e-5, 0.0, center)
        for value in (*norm.dual_forward(*args), *norm.dual_backward(*back)[:2]):
            assert value.isnan().all(-1).flatten().tolist() == [False, True, False]
    table = draw((3, 8), DTYPE, 2)
    want = plain_rope.apply(x, table, table, False, False)
    assert torch.equal(rope.apply(x, table, table, False, False).isnan(), want.isnan())


def test_softplus_far_below_zero():
    """exp(x) there, which 1 + exp(x) would lose: to float32's accuracy of the result, however small that is."""
    x = torch.cat([torch.linspace(-80, 80, 321), torch.linspace(-1, 1, 33)])
    got = activation.dual_forward(x, None, "softplus")[0].double()
    want = plain_activation.dual_forward(x.double(), None, "softplus")[0]
    assert ((got - want).abs() <= 1e-6 * want).all()


def test_the_tail_of_gelu():
    """f and f' keep their digits far below 0, where 1 + erf(x / sqrt(2)) has none; NaN and large numbers stay."""
    x = torch.cat([torch.linspace(-12.5, -1, 231), torch.linspace(-1, 12, 53)])
    got, got_t = activation.dual_forward(x, torch.ones(1, *x.shape), "gelu")
    f, f1, _ = plain_activation.derivatives(x.double(), "gelu")
    assert ((got.double() - f).abs() <= 2e-5 * f.abs()).all()
    far = x < -2  # f' has a zero at -0.75
    assert ((got_t[0].double() - f1).abs() <= 2e-5 * f1.abs())[far].all()
    rare = torch.tensor([float("nan"), 1e20, -1e20])
    got, _ = activation.dual_forward(rare, None, "gelu")
    _, bent = activation.dual_backward(rare, torch.ones(1, 3), torch.ones(3), None, "gelu")
    assert got[0].isnan() and got[1] == rare[1] and got[2] == 0
    assert bent[0, 0].isnan() and not bent[0, 1:].any()


@pytest.mark.parametrize("kept", OPTIONAL)
def test_gated_with_missing_arguments(kept):
    gate, up, *rest = gated_inputs(3, (2, 5, 20))
    check_gated("silu", gate, up, *(v if keep else None for v, keep in zip(rest, kept, strict=True)))


@pytest.mark.parametrize("shape", [(1,), (0, 4), (2, 3, 130)], ids=str)
def test_gated_shapes(shape):
    check_gated("gelu", *gated_inputs(1, shape))


def test_gated_halves_of_one_projection():
    both, both_t = draw((3, 5, 80), DTYPE, 1), draw((2, 3, 5, 80), DTYPE, 2)
    g, h = draw((3, 5, 40), DTYPE, 3), draw((2, 5, 3, 40), DTYPE, 4).transpose(1, 2)
    check_gated("silu", both[..., :40], both[..., 40:], both_t[..., :40], both_t[..., 40:], g, h)


ROPE = [((1, 2), (1, 2)), ((3, 63, 8), (63, 6)), ((2, 4, 7, 64), (2, 7, 64)), ((3, 2, 4, 5, 10), (2, 5, 10)),
        ((2, 3, 1, 34), (1, 1, 16)), ((0, 3, 4), (3, 4)), ((2, 3, 0, 8), (0, 8)), ((2, 3, 0, 8), (2, 0, 8)),
        ((2, 6, 8), (2, 6, 8))]  # fmt: skip


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("shape, table", ROPE, ids=str)
def test_rope(shape, table, interleaved, inverse):
    x, cos, sin = draw(shape, DTYPE, 1), draw(table, DTYPE, 2), draw(table, DTYPE, 3)
    truth = plain_rope.apply(*widened((x, cos, sin)), interleaved, inverse).contiguous()
    check(rope.apply(x, cos, sin, interleaved, inverse), truth, 2e-6, "y")
    if len(shape) == 4:  # as models hold it: positions before heads
        turned = x.transpose(1, 2).contiguous().transpose(1, 2)
        check(rope.apply(turned, cos, sin, interleaved, inverse), truth, 2e-6, "y")


def test_negative_control(monkeypatch):
    """A kernel that leaves the last row out of its sums is found out."""
    run = norm.launch

    def broken(kernel, grid, tiles, arguments, key=()):
        if "SHARE" in arguments:
            arguments = {**arguments, "M": arguments["M"]}
            arguments["h"] = arguments["h"].clone()
            arguments["h"][:, -1] = 0
        run(kernel, grid, tiles, arguments, key)

    monkeypatch.setattr(norm, "launch", broken)
    with pytest.raises(AssertionError, match="weight_h"):
        check_norm(*norm_inputs(2, 9, 33), 0.0, False)
