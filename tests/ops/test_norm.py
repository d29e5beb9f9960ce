"""RMSNorm and LayerNorm against double backward of eager torch in float64."""

from __future__ import annotations

import itertools

import pytest
import torch

from fastunlearn.errors import InvalidInputError
from fastunlearn.ops import norm
from tests.ops.dual_cases import HALF_BY_REFERENCE, ON_BACKENDS, check, draw, dual_truth, poisoned_memory

SHAPES = [(1, 1, 5), (1, 3, 63), (2, 63, 127), (3, 7, 512)]
LIMIT = {torch.float32: 2e-5, torch.float64: 1e-13, torch.bfloat16: 2e-5, torch.float16: 2e-5}
EPS = 1e-5


@pytest.fixture(autouse=True)
def poison():
    with poisoned_memory():
        yield


def rms(x, weight, offset=0.0):
    y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)
    return y if weight is None else y * (offset + weight)


def layer(x, weight, bias, offset=0.0):
    scale = None if weight is None else offset + weight
    return torch.nn.functional.layer_norm(x, x.shape[-1:], scale, bias, EPS)


def make(k, n, d, dtype, seed=0):
    shapes = {"x": (n, d), "xt": (k, n, d), "weight": (d,), "weight_t": (k, d), "bias": (d,), "bias_t": (k, d),
              "g": (n, d), "h": (k, n, d)}  # fmt: skip
    return {name: draw(shape, dtype, seed + i) for i, (name, shape) in enumerate(shapes.items())}


def compare(kind, v, offset, limit, backend=None):
    """All four results of one norm against the truth; ``v`` holds the inputs, None where left out."""
    if kind == "rms":
        primals, tangents = (v["x"], v["weight"]), (v["xt"], v["weight_t"])
        truth = dual_truth(lambda x, w: rms(x, w, offset), primals, tangents, v["g"], v["h"])
        args = (v["x"], v["xt"], v["weight"], v["weight_t"])
        y, yt = norm.rms_norm_dual_forward(*args, EPS, offset, backend=backend)
        back = norm.rms_norm_dual_backward(*args, v["g"], v["h"], EPS, offset, backend=backend)
    else:
        primals, tangents = (v["x"], v["weight"], v["bias"]), (v["xt"], v["weight_t"], v["bias_t"])
        truth = dual_truth(lambda x, w, b: layer(x, w, b, offset), primals, tangents, v["g"], v["h"])
        args = (v["x"], v["xt"], v["weight"], v["weight_t"])
        y, yt = norm.layer_norm_dual_forward(*args, v["bias"], v["bias_t"], EPS, offset, backend=backend)
        back = norm.layer_norm_dual_backward(*args, v["g"], v["h"], EPS, offset, backend=backend)
        if v["bias"] is None:
            back = back[:3]
    true_y, true_yt, first, second = truth
    check(y, true_y, limit, "y")
    if yt is not None:
        check(yt, true_yt, limit, "yt")
    check(back[0], first[0], limit, "gx", floor=1e-3)
    for name, got, want in zip(("hx", "weight_h", "bias_h"), back[1:], second, strict=False):
        check(got, want, limit, name, floor=1e-3)


@HALF_BY_REFERENCE
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_against_double_backward(kind, dtype, backend):
    for seed, (k, n, d) in enumerate(SHAPES):
        compare(kind, make(k, n, d, dtype, seed), 0.0 if seed % 2 else 1.0, LIMIT[dtype], backend)


@ON_BACKENDS
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_every_set_of_missing_arguments(kind, backend):
    v = make(2, 5, 33, torch.float64)
    names = ("xt", "weight_t", "bias_t", "g", "h")
    for kept in itertools.product([True, False], repeat=len(names)):
        some = {**v, **{name: None for name, keep in zip(names, kept, strict=True) if not keep}}
        compare(kind, some, 0.0, 1e-13, backend)
    compare(kind, {**v, "weight": None, "weight_t": None, "bias": None, "bias_t": None}, 0.0, 1e-13, backend)


def test_errors_name_the_argument():
    v = make(2, 5, 8, torch.float32)
    with pytest.raises(InvalidInputError, match=r"xt .* leading axis K"):
        norm.rms_norm_dual_forward(v["x"], v["x"], v["weight"], None, EPS)
    with pytest.raises(InvalidInputError, match="K must be"):
        norm.rms_norm_dual_forward(v["x"], v["xt"], v["weight"], v["weight_t"][:1], EPS)
    with pytest.raises(InvalidInputError, match="weight"):
        norm.layer_norm_dual_forward(v["x"], None, v["weight"].double(), None, None, None, EPS)
    with pytest.raises(InvalidInputError, match="flatten"):
        norm.rms_norm_dual_forward(v["xt"], None, v["weight"], None, EPS)
    with pytest.raises(InvalidInputError, match="eps"):
        norm.rms_norm_dual_forward(v["x"], None, v["weight"], None, -1.0)
    with pytest.raises(InvalidInputError, match="without weight"):
        norm.rms_norm_dual_forward(v["x"], None, None, v["weight_t"], EPS)
