"""Activations, alone and gated, against double backward of eager torch in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops import activation, gated_mlp
from tests.ops.dual_cases import HALF_BY_REFERENCE, ON_BACKENDS, check, draw, dual_truth, poisoned_memory

EAGER = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": lambda x: F.softplus(x, threshold=1e9),
}
SHAPES = [(1, (1,)), (2, (3, 63)), (3, (2, 5, 127)), (1, (0, 4))]
LIMIT = {torch.float32: 2e-5, torch.float64: 1e-13, torch.bfloat16: 2e-5, torch.float16: 2e-5}


@pytest.fixture(autouse=True)
def poison():
    with poisoned_memory():
        yield


def make(k, shape, dtype, seed=0, scale=2.0):
    one = {name: draw(shape, dtype, seed + i, scale) for i, name in enumerate(("gate", "up", "g"))}
    return one | {n: draw((k, *shape), dtype, seed + 5 + i) for i, n in enumerate(("gate_t", "up_t", "h"))}


def compare_gated(kind, v, limit, backend=None):
    args = (v["gate"], v["up"], v["gate_t"], v["up_t"])
    truth = dual_truth(lambda a, u: EAGER[kind](a) * u, args[:2], args[2:], v["g"], v["h"])
    y, yt = gated_mlp.dual_forward(*args, kind, backend=backend)
    back = gated_mlp.dual_backward(*args, v["g"], v["h"], kind, backend=backend)
    compare(y, yt, back, truth, limit)


def compare_alone(kind, v, limit, backend=None):
    truth = dual_truth(EAGER[kind], (v["gate"],), (v["gate_t"],), v["g"], v["h"])
    y, yt = activation.dual_forward(v["gate"], v["gate_t"], kind, backend=backend)
    back = activation.dual_backward(v["gate"], v["gate_t"], v["g"], v["h"], kind, backend=backend)
    compare(y, yt, back, truth, limit)


def compare(y, yt, back, truth, limit):
    true_y, true_yt, first, second = truth
    check(y, true_y, limit, "y")
    if yt is not None:
        check(yt, true_yt, limit, "yt")
    for number, (got, want) in enumerate(zip(back, (*first, *second), strict=True)):
        check(got, want, limit, f"result {number} of dual_backward", floor=1e-3)


@HALF_BY_REFERENCE
@pytest.mark.parametrize("kind", gated_mlp.KINDS)
def test_against_double_backward(kind, dtype, backend):
    for seed, (k, shape) in enumerate(SHAPES):
        v = make(k, shape, dtype, seed)
        compare_gated(kind, v, LIMIT[dtype], backend)
        compare_alone(kind, v, LIMIT[dtype], backend)


@ON_BACKENDS
def test_every_set_of_missing_arguments(backend):
    v = make(2, (5, 33), torch.float64)
    names = ("gate_t", "up_t", "g", "h")
    for kept in itertools.product([True, False], repeat=len(names)):
        some = {**v, **{name: None for name, keep in zip(names, kept, strict=True) if not keep}}
        compare_gated("gelu", some, 1e-13, backend)
        compare_alone("gelu", some, 1e-13, backend)


def test_errors_name_the_argument():
    v = make(2, (5, 8), torch.float32)
    with pytest.raises(InvalidInputError, match="'swish'"):
        gated_mlp.dual_forward(v["gate"], v["up"], None, None, "swish")
    with pytest.raises(InvalidInputError, match="up must"):
        gated_mlp.dual_forward(v["gate"], v["up"][:4], None, None, "silu")
    with pytest.raises(InvalidInputError, match="gate_t"):
        gated_mlp.dual_forward(v["gate"], v["up"], v["gate"], None, "silu")
    with pytest.raises(InvalidInputError, match=r"h .* K"):
        activation.dual_backward(v["gate"], v["gate_t"], v["g"], v["h"][:1], "silu")
    with pytest.raises(InvalidInputError, match="x must be"):
        activation.dual_forward(v["gate"].long(), None, "silu")


@ON_BACKENDS
@pytest.mark.parametrize("kind", [kind for kind in gated_mlp.KINDS if kind != "relu2"])
def test_derivatives_far_out(kind, backend):
    """Where the square of x is no number any more: slopes 0 or 1, no curvature, and no NaN."""
    x, one = torch.tensor([-1e20, 1e20]), torch.ones(2)
    _, yt = activation.dual_forward(x, one[None], kind, backend=backend)
    _, hx = activation.dual_backward(x, one[None], one, None, kind, backend=backend)
    assert yt[0].tolist() == ([0, 0] if kind in ("sigmoid", "tanh") else [0, 1]) and not hx.any()
